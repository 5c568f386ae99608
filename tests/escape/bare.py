"""Run attacks in plain processes: the controls that show that it is the sandbox that stops them otherwise.

`python -m tests.escape.bare <socket>`: forks one process for each order, a twentieth of a fresh interpreter.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import socket
import sys
import time
import traceback
from typing import Any

from tests.escape.lifetime import adopt_orphans, die_with_parent, end_children

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWNET = 0x20000, 0x4000000, 0x8000000, 0x40000000
MS_REC, MS_PRIVATE, PR_SET_DUMPABLE = 0x4000, 0x40000, 4


def run(order: dict[str, Any]) -> dict[str, Any]:
    """Fork, run, and return what it printed and whether it ended by itself."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _child(order, writer)
    os.close(writer)
    text, deadline, ended = b"", time.monotonic() + order["timeout_s"], False
    while not ended and (left := deadline - time.monotonic()) > 0:
        if select.select([reader], [], [], left)[0]:
            data = os.read(reader, 65536)
            text, ended = text + data, not data
    os.close(reader)
    end_children()
    return {"text": text.decode("utf-8", "backslashreplace"), "ended": ended}


def _child(order: dict[str, Any], output: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    os.setsid()
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.closerange(3, 256)
    flags = order["flags"]
    if flags and libc.unshare(flags):
        print("unshare:", os.strerror(ctypes.get_errno()))
    if flags & CLONE_NEWNS:
        libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    if (uid := order["uid"]) != os.getuid():
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    # as after a fresh execve, where /proc/self is one's own
    libc.prctl(PR_SET_DUMPABLE, 1)
    die_with_parent()
    try:
        exec(compile(order["source"], "<attack>", "exec"), {"__name__": "__main__", "post": print})
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def main(descriptor: int) -> None:
    """Serve a judge on the socket `descriptor`."""
    die_with_parent()
    adopt_orphans()
    with socket.socket(fileno=descriptor) as channel, channel.makefile("rwb") as stream:
        for line in stream:
            stream.write(json.dumps(run(json.loads(line))).encode() + b"\n")
            stream.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
