"""Make a socket by a raw system call where no network is granted."""

from tests.escape.grants import connect_tcp
from tests.escape.technique import Granted, Technique


def attack(world):
    descriptor = world.socket_raw(2, 1)
    address = world.ipv4(world.tcp)
    world.syscall("connect", descriptor, address, len(address))


TECHNIQUE = Technique(
    source="man 2 socket",
    event=("net.socket",),
    by="kernel",
    syscall="socket",
    stops=("notification", "namespaces"),
    control=Granted(connect_tcp),
)
