"""Run an attack in a plain process: the control that shows that it is the sandbox that stops it otherwise.

`python -m tests.escape.bare <unshare flags>`, the guest's source on standard input.
"""

from __future__ import annotations

import ctypes
import os
import sys
import traceback

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWNET = 0x20000, 0x4000000, 0x8000000, 0x40000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000


def main(flags: int) -> None:
    """Leave the host's namespaces as far as `flags` say, then run."""
    source = sys.stdin.read()
    libc = ctypes.CDLL(None, use_errno=True)
    if flags and libc.unshare(flags):
        sys.exit(f"unshare: {os.strerror(ctypes.get_errno())}")
    if flags & CLONE_NEWNS:
        libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    try:
        exec(compile(source, "<attack>", "exec"), {"__name__": "__main__", "post": print})
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
