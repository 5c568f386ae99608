"""Connect by io_uring."""

import ctypes

from tests.escape.grants import another_port
from tests.escape.technique import Bare, Technique


def attack(world):
    descriptor = world.socket_raw(2, 1)
    address = ctypes.create_string_buffer(world.ipv4(world.tcp))
    world.ring(16, descriptor, ctypes.addressof(address), 0, 16)


TECHNIQUE = Technique(
    source="io_uring(7) IORING_OP_CONNECT: no connect call",
    policy=another_port,
    event=("kernel.io_uring",),
    by="kernel",
    syscall="io_uring_setup",
    stops=("seccomp", "namespaces"),
    control=Bare(),
)
