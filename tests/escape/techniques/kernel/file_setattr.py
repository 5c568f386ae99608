"""Set a file's flags by file_setattr (6.17)."""

import ctypes
import os

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("file_setattr", -100, os.fsencode(world.granted), ctypes.create_string_buffer(24), 24, 0)


TECHNIQUE = Technique(
    source="file_setattr(2): newer than most filters",
    event=("fs.metadata",),
    by="kernel",
    syscall="file_setattr",
    stops=("seccomp",),
    control=Bare(answer="OK|EOPNOTSUPP|ENOTSUP|EINVAL"),
)
