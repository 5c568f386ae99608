"""Slow down everything of the same user by setpriority."""

import os

from tests.escape.technique import Alone, InThread, Technique


def attack(world):
    for which, who in ((2, os.getuid()), (0, world.victim), (1, world.victim)):
        world.attempt("setpriority", which, who, 15)


TECHNIQUE = Technique(
    source="setpriority(2) PRIO_USER",
    no_event="it is granted on the cell's own processes, and the pid namespace holds nobody else's",
    stops=("namespaces",),
    control=Alone("it would slow down everything of this user on the machine"),
    thread=InThread("stopped"),
)
