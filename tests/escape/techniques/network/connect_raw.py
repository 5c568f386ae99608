"""Connect by raw system calls to a port that is not granted where another is."""

from tests.escape.grants import another_port, connect_tcp
from tests.escape.technique import Granted, Technique


def attack(world):
    descriptor = world.socket_raw(2, 1)
    address = world.ipv4(world.tcp)
    world.syscall("connect", descriptor, address, len(address))


TECHNIQUE = Technique(
    source="man 2 connect",
    policy=another_port,
    event=("net.connect",),
    by="kernel",
    syscall="connect",
    stops=("notification",),
    control=Granted(connect_tcp),
)
