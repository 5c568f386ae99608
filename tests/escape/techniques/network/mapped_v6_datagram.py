"""Send a datagram to an IPv4 address dressed as IPv6."""

from tests.escape.grants import another_port, send_udp
from tests.escape.technique import Granted, Technique


def attack(world):
    descriptor = world.socket_raw(10, 2)
    address = world.ipv6(world.udp, b"\0" * 10 + b"\xff\xff" + bytes([127, 0, 0, 1]))
    world.syscall("sendto", descriptor, b"loot", 4, 0, address, len(address))


TECHNIQUE = Technique(
    source="RFC 4291 2.5.5.2",
    policy=another_port,
    event=("net.send", "net.connect"),
    by="kernel",
    syscall="sendto",
    stops=("notification",),
    control=Granted(send_udp),
)
