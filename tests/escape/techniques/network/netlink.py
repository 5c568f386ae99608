"""Make a netlink socket to the routing tables."""

from tests.escape.grants import another_port
from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("socket", 16, 3, 0)


TECHNIQUE = Technique(
    source="Landlock allows AF_NETLINK (facts); netfilter exploits",
    policy=another_port,
    event=("net.socket",),
    by="kernel",
    syscall="socket",
    stops=("notification",),
    control=Bare(),
)
