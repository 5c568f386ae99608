"""Change the root, to climb out of another."""

import os

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("chroot", os.fsencode(world.inbox))


TECHNIQUE = Technique(
    source="chroot(2): escape by a second chroot",
    event=("kernel.mount",),
    by="kernel",
    syscall="chroot",
    stops=("seccomp", "credentials"),
    control=Bare(root=True),
)
