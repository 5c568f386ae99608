"""Send with a multipath connection's first packet."""

from tests.escape.grants import another_port
from tests.escape.technique import Bare, Technique


def attack(world):
    descriptor = world.socket_raw(2, 1, 262)
    address = world.ipv4(world.mptcp)
    world.syscall("sendto", descriptor, b"loot", 4, 0x20000000, address, len(address))


TECHNIQUE = Technique(
    source="Landlock allows MPTCP fast open (facts)",
    policy=another_port,
    event=("net.connect", "net.send", "net.socket"),
    by="kernel",
    stops=("notification",),
    control=Bare(),
)
