"""Mount a file system."""

import os

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("mount", b"none", os.fsencode(world.outbox), b"tmpfs", 0, None)


TECHNIQUE = Technique(
    source="mount(2)",
    event=("kernel.mount",),
    by="kernel",
    syscall="mount",
    stops=("seccomp", "credentials"),
    control=Bare(root=True),
)
