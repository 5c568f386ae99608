"""Reads tables of mounts, /proc/PID/mountinfo, in which names hold any bytes: who mounts chooses them.

The kernel ends each line with a newline and escapes space, tab, newline and backslash in names, as three octal digits
(proc(5); fs/proc_namespace.c). Any user may name a mount of FUSE; what else ends lines of a text is part of a name.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

_ESCAPED = re.compile(rb"\\([0-7]{3})")


class Mounted(NamedTuple):
    """One mount. `options` are those of its file system, `line` is what the kernel wrote."""

    number: int
    root: str
    point: str
    kind: str
    options: str
    line: bytes


def read(file: int) -> list[Mounted]:
    """Read an open table from its beginning. Raises OSError."""
    data, offset = b"", 0
    while part := os.pread(file, 1 << 16, offset):
        data, offset = data + part, offset + len(part)
    return parse(data)


def read_at(path: str) -> list[Mounted]:
    """Read the table at a path. Raises OSError."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return read(file)
    finally:
        os.close(file)


def parse(data: bytes) -> list[Mounted]:
    """Return the mounts of a table, in its order."""
    found = []
    for line in data.split(b"\n"):
        fields, separator, rest = line.partition(b" - ")
        left, right = fields.split(b" "), [*rest.split(b" ", 2), b"", b""]
        if separator and len(left) > 5 and left[0].isdigit():
            root, point = (os.fsdecode(_ESCAPED.sub(_unescaped, one)) for one in left[3:5])
            found.append(Mounted(int(left[0]), root, point, os.fsdecode(right[0]), os.fsdecode(right[2]), line))
    return found


def _unescaped(found: re.Match[bytes]) -> bytes:
    return bytes((int(found[1], 8) & 0xFF,))
