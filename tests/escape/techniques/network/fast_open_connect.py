"""Delay a connection to the first write: TCP_FASTOPEN_CONNECT."""

import struct

from tests.escape.grants import another_port, connect_tcp
from tests.escape.technique import Granted, Technique


def attack(world):
    descriptor = world.socket_raw(2, 1)
    world.attempt("setsockopt", descriptor, 6, 30, struct.pack("=i", 1), 4)
    address = world.ipv4(world.tcp)
    world.attempt("connect", descriptor, address, len(address))
    world.libc.write(descriptor, b"loot", 4)


TECHNIQUE = Technique(
    source="tcp(7) TCP_FASTOPEN_CONNECT, 4.11",
    policy=another_port,
    event=("net.connect",),
    by="kernel",
    syscall="connect",
    stops=("notification",),
    control=Granted(connect_tcp),
)
