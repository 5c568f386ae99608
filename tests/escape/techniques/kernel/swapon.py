"""Swap to a file of one's own, to read other processes' memory."""

import os

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("swapon", os.fsencode(world.granted), 0)


TECHNIQUE = Technique(
    source="swapon(2)",
    event=("kernel.mount",),
    by="kernel",
    syscall="swapon",
    stops=("seccomp", "credentials"),
    control=Bare(root=True, answer="EINVAL"),
)
