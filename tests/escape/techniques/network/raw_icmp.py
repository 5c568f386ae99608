"""Make a raw socket."""

from tests.escape.grants import another_port
from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("socket", 2, 3, 1)


TECHNIQUE = Technique(
    source="raw(7)",
    policy=another_port,
    event=("net.socket",),
    by="kernel",
    syscall="socket",
    stops=("notification", "credentials"),
    control=Bare(root=True),
)
