"""Map a library by the ancient uselib."""

import os

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("uselib", os.fsencode(world.library))


TECHNIQUE = Technique(
    source="uselib(2)",
    event=("import.native",),
    by="kernel",
    syscall="uselib",
    stops=("seccomp",),
    control=Bare(answer="ENOSYS"),
)
