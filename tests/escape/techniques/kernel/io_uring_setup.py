"""Set up io_uring, whose operations no filter sees."""

import ctypes

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("io_uring_setup", 8, ctypes.create_string_buffer(120))


TECHNIQUE = Technique(
    source="io_uring(7); Landlock allows it (facts); ChromeOS and Docker disable it",
    event=("kernel.io_uring",),
    by="kernel",
    syscall="io_uring_setup",
    stops=("seccomp",),
    control=Bare(),
)
