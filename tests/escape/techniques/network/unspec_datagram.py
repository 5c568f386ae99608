"""Send a datagram whose address claims no family, which IPv4 takes for its own."""

import struct

from tests.escape.grants import another_port, send_udp
from tests.escape.technique import Granted, Technique


def attack(world):
    descriptor = world.socket_raw(2, 2)
    address = struct.pack("=H", 0) + world.ipv4(world.udp)[2:]
    world.syscall("sendto", descriptor, b"loot", 4, 0, address, len(address))


TECHNIQUE = Technique(
    source="net/ipv4/udp.c: AF_UNSPEC is taken for AF_INET",
    policy=another_port,
    event=("net.send", "net.connect"),
    by="kernel",
    syscall="sendto",
    stops=("notification",),
    control=Granted(send_udp),
)
