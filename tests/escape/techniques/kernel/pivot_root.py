"""Change the root file system."""

import os

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("pivot_root", os.fsencode(world.outbox), os.fsencode(world.outbox))


TECHNIQUE = Technique(
    source="pivot_root(2)",
    event=("kernel.mount",),
    by="kernel",
    syscall="pivot_root",
    stops=("seccomp", "credentials"),
    control=Bare(root=True, answer="EINVAL|EBUSY"),
)
