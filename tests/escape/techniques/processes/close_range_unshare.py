"""Get a descriptor table of one's own by close_range."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("close_range", 1000, 1001, 2)


TECHNIQUE = Technique(
    source="close_range(2) CLOSE_RANGE_UNSHARE",
    event=("kernel.namespace",),
    by="kernel",
    syscall="close_range",
    stops=("seccomp",),
    control=Bare(),
)
