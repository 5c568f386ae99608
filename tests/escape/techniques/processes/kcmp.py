"""Compare kernel pointers of two processes."""

import os

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("kcmp", os.getpid(), world.victim, 3, 0, 0)


TECHNIQUE = Technique(
    source="kcmp(2)",
    event=("process.trace",),
    by="kernel",
    syscall="kcmp",
    stops=("seccomp", "namespaces"),
    control=Bare(),
)
