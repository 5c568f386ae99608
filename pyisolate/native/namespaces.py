"""Live probe of namespaces(7) for `kernel/namespaces.py`."""

from __future__ import annotations

import os

from ._native import lib


def probe_namespaces(flags: int, uid: int, gid: int) -> str:
    """Make a process in the namespaces of `flags` as `uid`, check that it is pid 1 there, and say so.

    Raises OSError with the errno of the step that failed.
    """
    status = int(lib.namespaces_probe(flags, uid, gid))
    if status == 255:
        raise OSError(0, "the new process is not pid 1 of its namespace")
    if status:
        raise OSError(status, os.strerror(status))
    return f"a process of uid {uid} is pid 1 in namespaces of its own"
