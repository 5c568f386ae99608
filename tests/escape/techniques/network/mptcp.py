"""Connect with multipath TCP, which many filters take for another protocol."""

from tests.escape.grants import another_port
from tests.escape.technique import Bare, Technique


def attack(world):
    descriptor = world.socket_raw(2, 1, 262)
    address = world.ipv4(world.mptcp)
    world.syscall("connect", descriptor, address, len(address))


TECHNIQUE = Technique(
    source="landlock/net_test.c (mptcp); Landlock allows MPTCP (facts)",
    policy=another_port,
    event=("net.connect", "net.socket"),
    by="kernel",
    stops=("notification",),
    control=Bare(),
)
