"""Send a datagram over IPv6 where IPv4 alone is granted."""

from tests.escape.grants import send_udp6
from tests.escape.technique import Granted, Technique


def attack(world):
    descriptor = world.socket_raw(10, 2)
    address = world.ipv6(world.udp6)
    world.syscall("sendto", descriptor, b"loot", 4, 0, address, len(address))


TECHNIQUE = Technique(
    source="filters that forget IPv6",
    policy=lambda p, t: p.allow_connect(f"127.0.0.0/8:{t.udp6}"),
    event=("net.send", "net.connect"),
    by="kernel",
    syscall="sendto",
    stops=("notification",),
    control=Granted(send_udp6),
)
