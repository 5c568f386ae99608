"""Set an extended attribute by io_uring."""

import ctypes
import os

from tests.escape.technique import Bare, Technique


def attack(world):
    value = ctypes.create_string_buffer(b"owned")
    parameters = ctypes.create_string_buffer(120)
    ring = world.syscall("io_uring_setup", 4, parameters)
    os.close(ring)
    world.kept = [value]
    descriptor = world.open_raw(world.granted)
    world.ring(41, descriptor, world.text("user.ring"), 5, ctypes.addressof(value))


TECHNIQUE = Technique(
    source="io_uring(7) IORING_OP_FSETXATTR",
    event=("kernel.io_uring",),
    by="kernel",
    syscall="io_uring_setup",
    stops=("seccomp", "root view"),
    control=Bare(),
)
