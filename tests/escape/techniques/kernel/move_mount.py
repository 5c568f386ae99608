"""Move a mount over another."""

import os

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("move_mount", -100, b"/dev", -100, os.fsencode(world.outbox), 0)


TECHNIQUE = Technique(
    source="move_mount(2)",
    event=("kernel.mount",),
    by="kernel",
    syscall="move_mount",
    stops=("seccomp",),
    control=Bare(root=True, answer="EINVAL|OK"),
)
