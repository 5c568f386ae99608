"""Dissolve a granted connection by AF_UNSPEC, and connect the same socket elsewhere."""

import struct

from tests.escape.grants import another_port, send_udp
from tests.escape.technique import Granted, Technique


def attack(world):
    descriptor = world.socket_raw(2, 2)
    granted, none, other = world.ipv4(9), struct.pack("=H14x", 0), world.ipv4(world.udp)
    world.syscall("connect", descriptor, granted, len(granted))
    world.attempt("connect", descriptor, none, len(none))
    world.attempt("connect", descriptor, other, len(other))
    world.libc.write(descriptor, b"loot", 4)


TECHNIQUE = Technique(
    source="connect(2): AF_UNSPEC; landlock/net_test.c (connect_unspec)",
    policy=another_port,
    event=("net.connect",),
    by="kernel",
    syscall="connect",
    stops=("notification",),
    control=Granted(send_udp),
)
