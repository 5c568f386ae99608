"""Reconfigure a mounted file system."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("fspick", -100, b"/", 0)


TECHNIQUE = Technique(
    source="fspick(2)",
    event=("kernel.mount",),
    by="kernel",
    syscall="fspick",
    stops=("seccomp",),
    control=Bare(root=True),
)
