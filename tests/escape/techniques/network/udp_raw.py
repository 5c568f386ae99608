"""Send a datagram by system call where another address is granted."""

from tests.escape.grants import another_port, send_udp
from tests.escape.technique import Granted, Technique


def attack(world):
    descriptor = world.socket_raw(2, 2)
    address = world.ipv4(world.udp)
    world.syscall("sendto", descriptor, b"loot", 4, 0, address, len(address))


TECHNIQUE = Technique(
    source="Landlock allows UDP (facts)",
    policy=another_port,
    event=("net.send", "net.connect"),
    by="kernel",
    syscall="sendto",
    stops=("notification",),
    control=Granted(send_udp),
)
