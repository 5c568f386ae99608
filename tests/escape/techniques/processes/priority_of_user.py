"""Slow down everything of the same user by setpriority."""

import os

from tests.escape.technique import Alone, Technique, silent


def attack(world):
    for which, who in ((2, os.getuid()), (0, world.victim), (1, world.victim)):
        world.attempt("setpriority", which, who, 15)


TECHNIQUE = Technique(
    source="setpriority(2) PRIO_USER",
    event=("process.trace",),
    stops=("namespaces",),
    control=Alone("it would slow down everything of this user on the machine"),
    thread=silent("the filter of a sandbox thread lets the kernel answer"),
)
