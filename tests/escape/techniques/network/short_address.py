"""Give connect addresses that are too short, too long, negative and unreadable."""

import ctypes

from tests.escape.grants import another_port, connect_tcp
from tests.escape.technique import Granted, Technique


def attack(world):
    address = world.ipv4(world.tcp)
    buffer = ctypes.create_string_buffer(address.ljust(4096, b"\0"))
    for length in (8, 15, 17, 28, 128, 129, 4096, -1, 0x10010, 0x100000010):
        descriptor = world.socket_raw(2, 1)
        world.attempt("connect", descriptor, buffer, length)
        world.libc.close(descriptor)
    world.attempt("connect", world.socket_raw(2, 1), 1, 16)


TECHNIQUE = Technique(
    source="net/socket.c move_addr_to_kernel",
    policy=another_port,
    event=("net.connect",),
    by="kernel",
    syscall="connect",
    stops=("notification",),
    control=Granted(connect_tcp),
)
