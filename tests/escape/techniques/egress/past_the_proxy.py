"""Connect by oneself to the address of a host that is granted by name."""

from tests.escape.grants import by_name_elsewhere, connect_tcp
from tests.escape.technique import NO_PROXY, Granted, Technique


def attack(world):
    descriptor = world.socket_raw(2, 1)
    address = world.ipv4(world.tcp)
    world.syscall("connect", descriptor, address, len(address))


TECHNIQUE = Technique(
    source="man 2 connect",
    policy=by_name_elsewhere,
    event=("net.connect",),
    stops=("notification",),
    control=Granted(connect_tcp),
    thread=NO_PROXY,
)
