"""Connect a datagram socket where it is granted, then send elsewhere."""

from tests.escape.grants import another_port, send_udp
from tests.escape.technique import Granted, Technique


def attack(world):
    descriptor = world.socket_raw(2, 2)
    granted, other = world.ipv4(9), world.ipv4(world.udp)
    world.syscall("connect", descriptor, granted, len(granted))
    world.syscall("sendto", descriptor, b"loot", 4, 0, other, len(other))


TECHNIQUE = Technique(
    source="connect(2): an address given to sendto overrides it",
    policy=another_port,
    event=("net.send", "net.connect"),
    by="kernel",
    syscall="sendto",
    stops=("notification",),
    control=Granted(send_udp),
)
