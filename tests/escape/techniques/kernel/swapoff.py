"""Turn swap off."""

import os

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("swapoff", os.fsencode(world.granted))


TECHNIQUE = Technique(
    source="swapon(2)",
    event=("kernel.mount",),
    by="kernel",
    syscall="swapoff",
    stops=("seccomp", "credentials"),
    control=Bare(root=True, answer="EINVAL"),
)
