"""Make an asynchronous I/O context."""

import ctypes

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("io_setup", 1, ctypes.create_string_buffer(8))


TECHNIQUE = Technique(
    source="io_setup(2): writes no filter sees; CVE-2012-6701",
    event=("kernel.syscall",),
    by="kernel",
    syscall="io_setup",
    stops=("seccomp",),
    control=Bare(),
)
