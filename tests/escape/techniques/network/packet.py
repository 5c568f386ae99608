"""Make a packet socket."""

from tests.escape.grants import another_port
from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("socket", 17, 3, 0x300)


TECHNIQUE = Technique(
    source="packet(7); CVE-2020-14386",
    policy=another_port,
    event=("net.socket",),
    by="kernel",
    syscall="socket",
    stops=("notification", "credentials"),
    control=Bare(root=True),
)
