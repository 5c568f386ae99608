"""Mount a fresh /proc."""

import os

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("mount", b"proc", os.fsencode(world.outbox), b"proc", 0, None)


TECHNIQUE = Technique(
    source="mount(2); container breakouts by a second proc",
    event=("kernel.mount",),
    by="kernel",
    syscall="mount",
    stops=("seccomp", "credentials"),
    control=Bare(root=True),
)
