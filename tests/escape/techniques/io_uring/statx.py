"""Tell by io_uring's statx whether a file outside exists."""

import ctypes

from tests.escape.technique import Bare, Technique


def attack(world):
    buffer = ctypes.create_string_buffer(256)
    world.ring(21, -100, world.text(world.secret), 0xFFF, ctypes.addressof(buffer))
    world.got("it exists")


TECHNIQUE = Technique(
    source="io_uring(7) IORING_OP_STATX",
    event=("kernel.io_uring",),
    by="kernel",
    syscall="io_uring_setup",
    stops=("seccomp", "root view"),
    control=Bare(),
)
