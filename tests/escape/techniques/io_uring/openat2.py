"""Open the secret by io_uring's openat2."""

import ctypes

from tests.escape.technique import Bare, Technique


def attack(world):
    how = ctypes.create_string_buffer(24)
    world.take(world.ring(28, -100, world.text(world.secret), 24, ctypes.addressof(how)))


TECHNIQUE = Technique(
    source="io_uring(7) IORING_OP_OPENAT2",
    event=("kernel.io_uring",),
    by="kernel",
    syscall="io_uring_setup",
    stops=("seccomp", "root view", "landlock"),
    control=Bare(),
)
