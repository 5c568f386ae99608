"""Connect over IPv6 where IPv4 alone is granted."""

from tests.escape.grants import connect_tcp6
from tests.escape.technique import Granted, Technique


def attack(world):
    descriptor = world.socket_raw(10, 1)
    address = world.ipv6(world.tcp6)
    world.syscall("connect", descriptor, address, len(address))


TECHNIQUE = Technique(
    source="filters that forget IPv6",
    policy=lambda p, t: p.allow_connect(f"127.0.0.0/8:{t.tcp6}"),
    event=("net.connect",),
    by="kernel",
    syscall="connect",
    stops=("notification",),
    control=Granted(connect_tcp6),
)
