"""Connect a datagram socket and write to it."""

from tests.escape.grants import another_port, send_udp
from tests.escape.technique import Granted, Technique


def attack(world):
    descriptor = world.socket_raw(2, 2)
    address = world.ipv4(world.udp)
    world.attempt("connect", descriptor, address, len(address))
    world.libc.write(descriptor, b"loot", 4)


TECHNIQUE = Technique(
    source="udp(7)",
    policy=another_port,
    event=("net.connect",),
    by="kernel",
    syscall="connect",
    stops=("notification",),
    control=Granted(send_udp),
)
