"""Directories that say of themselves that a name in them has changed: one call for all of them, however many."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence

from ._native import ffi, lib

#: Directories that one instance watches at most; then it begins anew (max_user_watches is 8192 where memory is small).
MOST = 4096
#: What `watch_poll` returns.
_NAMES, _MOUNTS = 1, 2


class Watch:
    """Directories in which names may change, by inotify. Thread-safe; opened when the first directory is added.

    Counts changes: what was looked at after `add`, at a `count`, is as it was while `count` is the same. It says so
    before the call that changed the name returns. A directory is watched until its first change.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._instance: int | None = None
        self._count = self._added = 0

    @property
    def count(self) -> int:
        """A number that changes when a name in any watched directory did."""
        with self._lock:
            if self._instance is not None:
                changed = lib.watch_changed(self._instance)
                self._count += changed != 0
                if changed < 0:
                    self._close()
            return self._count

    def quiet(self, count: int, mounts: int) -> tuple[bool, bool]:
        """Tell whether `count` is the number still, and whether the mounts are what they were when this was last asked.

        `mounts` is a descriptor of mountinfo. One system call.
        """
        with self._lock:
            found = lib.watch_poll(-1 if self._instance is None else self._instance, mounts)
            return not found & _NAMES and self._count == count, not found & _MOUNTS

    def add(self, directories: Sequence[str]) -> list[str]:
        """Watch directories too; return those that cannot be: their user may not list them, or there is no room."""
        with self._lock:
            if len(directories) > MOST:
                return list(directories)
            if self._added + len(directories) > MOST:
                self._count += 1  # for those that were watched until now
                self._close()
            if self._instance is None:
                if (opened := lib.watch_open()) < 0:  # all of this user's instances are in use
                    return list(directories)
                self._instance = opened
            self._added += len(directories)
            errors = ffi.new("int[]", max(1, len(directories)))
            paths = b"".join(os.fsencode(path) + b"\0" for path in directories)
            lib.watch_add(self._instance, paths, len(directories), errors)
            return [path for path, error in zip(directories, errors, strict=False) if error]

    def close(self) -> None:
        """Watch nothing any more; the next `add` begins anew."""
        with self._lock:
            self._count += 1
            self._close()

    def abandon(self) -> None:
        """In a forked child of the host: close the copy without the lock, which another thread may have held."""
        self._close()

    def _close(self) -> None:
        if self._instance is not None:
            with contextlib.suppress(OSError):
                os.close(self._instance)
            self._instance, self._added = None, 0
