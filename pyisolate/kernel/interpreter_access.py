"""Whether an unprivileged cell can read its interpreter by file permissions alone.

A root view shows an interpreter in a user's private home all the same. Where a policy has none (BPF-LSM decides, or
files are in monitor mode), the cell's user meets the host's permissions, and a guest would only see modules missing.
"""

from __future__ import annotations

import os
import stat
import sys
import sysconfig
from functools import lru_cache


@lru_cache(maxsize=8)
def interpreter_out_of_reach(uid: int, gid: int, places: tuple[str, ...] = ()) -> str | None:
    """Return the first directory on the way to an interpreter that a user without groups may not search.

    `places`: what it is made of (default: standard library and prefix of the running one).
    """
    places = places or (sysconfig.get_path("stdlib"), sys.prefix)
    return next((closed for place in places if (closed := first_closed(place, uid, gid)) is not None), None)


def first_closed(path: str, uid: int, gid: int) -> str | None:
    """Return the first directory of a path, itself included, that the user may not search by its mode."""
    real = os.path.realpath(path)
    parts = real.split("/")
    for end in range(1, len(parts) + 1):
        directory = "/".join(parts[:end]) or "/"
        found = os.stat(directory)
        own, group = found.st_uid == uid, found.st_gid == gid
        if not found.st_mode & (stat.S_IXUSR if own else stat.S_IXGRP if group else stat.S_IXOTH):
            return directory
    return None
