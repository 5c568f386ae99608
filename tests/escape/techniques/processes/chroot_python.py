"""Change the root the ordinary way."""

import os

from tests.escape.technique import Bare, InThread, Technique


def attack(world):
    os.chroot(world.inbox)
    world.got("another root")


TECHNIQUE = Technique(
    source="chroot(2)",
    event=("kernel.mount",),
    by="either",
    stops=("broker", "seccomp", "credentials"),
    control=Bare(root=True),
    thread=InThread("stopped", "the wrapper is a cell's only: the kernel's record stands alone"),
)
