"""Open an IPv6 socket for IPv4 behind the host's back, by IPV6_V6ONLY and IPV6_ADDRFORM."""

import struct

from tests.escape.grants import another_port, connect_tcp
from tests.escape.technique import Granted, Technique


def attack(world):
    descriptor = world.socket_raw(10, 1)
    for option, value in ((26, 0), (1, 2)):
        data = struct.pack("=i", value)
        result, _ = world.attempt("setsockopt", descriptor, 41, option, data, 4)
        if result == 0 and option == 1:
            world.got("another family")
    address = world.ipv4(world.tcp)
    world.attempt("connect", descriptor, address, len(address))
    mapped = world.ipv6(world.tcp, b"\0" * 10 + b"\xff\xff" + bytes([127, 0, 0, 1]))
    world.syscall("connect", descriptor, mapped, len(mapped))


TECHNIQUE = Technique(
    source="ipv6(7) IPV6_ADDRFORM: CVE-2022-3566 class",
    policy=another_port,
    event=("net.connect", "net.socket"),
    by="kernel",
    stops=("notification", "seccomp"),
    control=Granted(connect_tcp),
)
