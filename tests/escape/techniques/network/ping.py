"""Make a ping socket, which needs no rights where the host allows it."""

from tests.escape.grants import another_port
from tests.escape.technique import Alone, Technique


def attack(world):
    world.floor("socket", 2, 2, 1)


TECHNIQUE = Technique(
    source="icmp(7) ping_group_range",
    policy=another_port,
    event=("net.socket",),
    by="kernel",
    syscall="socket",
    stops=("notification",),
    control=Alone("net.ipv4.ping_group_range excludes everybody here"),
)
