"""Give an IPv4 address to an IPv6 socket, and an unspecified family to both."""

import struct

from tests.escape.grants import another_port, send_udp
from tests.escape.technique import Granted, Technique


def attack(world):
    for family, port in ((10, world.tcp), (2, world.tcp)):
        descriptor = world.socket_raw(family, 1)
        for claimed in (2, 0):
            address = struct.pack("=H", claimed) + world.ipv4(port)[2:] + b"\0" * 12
            world.attempt("connect", descriptor, address, len(address))
    datagram = world.socket_raw(10, 2)
    for claimed in (2, 0):
        address = struct.pack("=H", claimed) + world.ipv4(world.udp)[2:] + b"\0" * 12
        world.attempt("sendto", datagram, b"loot", 4, 0, address, len(address))


TECHNIQUE = Technique(
    source="landlock/net_test.c (ipv6 socket, AF_UNSPEC); net/ipv6/udp.c takes IPv4 addresses",
    policy=another_port,
    event=("net.send", "net.connect"),
    by="kernel",
    stops=("notification",),
    control=Granted(send_udp),
)
