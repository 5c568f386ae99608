"""Send to multicast, broadcast and link-local addresses."""

import struct

from tests.escape.grants import another_port
from tests.escape.technique import Granted, Technique


def attack(world):
    for host in ((224, 0, 0, 1), (239, 1, 2, 3), (255, 255, 255, 255), (127, 255, 255, 255)):
        descriptor = world.socket_raw(2, 2)
        world.attempt("setsockopt", descriptor, 1, 6, struct.pack("=i", 1), 4)
        address = world.ipv4(world.udp, host)
        result, _ = world.attempt("sendto", descriptor, b"loot", 4, 0, address, len(address))
        if result > 0:
            world.got(f"a datagram to {host}")


TECHNIQUE = Technique(
    source="ip(7)",
    policy=another_port,
    event=("net.send", "net.connect"),
    by="kernel",
    syscall="sendto",
    stops=("notification",),
    control=Granted(lambda p, t: p.allow_connect(f"127.255.255.255:{t.udp}")),
)
