"""Bind a port on every address."""

from tests.escape.grants import another_port
from tests.escape.technique import Granted, Technique


def attack(world):
    descriptor = world.socket_raw(2, 1)
    address = world.ipv4(0, (0, 0, 0, 0))
    world.floor("bind", descriptor, address, len(address))


TECHNIQUE = Technique(
    source="landlock/net_test.c (bind)",
    policy=another_port,
    event=("net.bind",),
    by="kernel",
    syscall="bind",
    stops=("notification",),
    control=Granted(lambda p, t: p.allow_bind("0.0.0.0:0")),
)
