"""What stands at many paths now, in one call. Source: statx(2), 4.11; ids of mounts: 5.8."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

from ._native import ffi, lib

#: What a path leads to; a link itself; a file with its contents.
Kind = Literal["f", "l", "c"]
_FIELDS = 6


class Question:
    """Paths to be looked at again and again: about 1 us each."""

    def __init__(self, paths: Sequence[tuple[str, Kind]]) -> None:
        self._paths = b"".join(os.fsencode(path) + b"\0" for path, _ in paths)
        self._kinds = "".join(kind for _, kind in paths).encode()

    def answer(self) -> bytes:
        """Return device, inode and mount of each place, or why there is none: equal bytes for equal places."""
        found = ffi.new("unsigned long long[]", max(1, _FIELDS * len(self._kinds)))
        lib.places_identify(self._paths, self._kinds, len(self._kinds), found)
        return bytes(ffi.buffer(found))

    def still(self, answer: bytes) -> bool:
        """True while `answer`, which was its answer, is."""
        return bool(lib.places_unchanged(self._paths, self._kinds, len(self._kinds), answer))


def born(path: str, *, dir_fd: int = -100) -> int:
    """Return when the file at `path` (empty: open as `dir_fd`) was made, in ns since 1970; 0: not known."""
    return int(lib.places_born(dir_fd, os.fsencode(path)))
