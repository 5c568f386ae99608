"""Connect to an IPv4 address dressed as IPv6."""

from tests.escape.grants import another_port, connect_tcp
from tests.escape.technique import Granted, Technique


def attack(world):
    descriptor = world.socket_raw(10, 1)
    address = world.ipv6(world.tcp, b"\0" * 10 + b"\xff\xff" + bytes([127, 0, 0, 1]))
    world.syscall("connect", descriptor, address, len(address))


TECHNIQUE = Technique(
    source="RFC 4291 2.5.5.2; SSRF filters",
    policy=another_port,
    event=("net.connect",),
    by="kernel",
    syscall="connect",
    stops=("notification",),
    control=Granted(connect_tcp),
)
