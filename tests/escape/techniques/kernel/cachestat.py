"""Ask what of a file others have read lately."""

import ctypes

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("cachestat", 1, ctypes.create_string_buffer(16), ctypes.create_string_buffer(64), 0)


TECHNIQUE = Technique(
    source="cachestat(2): a side channel",
    event=("kernel.syscall",),
    by="kernel",
    syscall="cachestat",
    stops=("seccomp",),
    control=Bare(answer="EOPNOTSUPP|EBADF|OK|ENOTSUP"),
)
