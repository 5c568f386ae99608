"""Register functions for the end of the process and for forks of it."""

import atexit
import os

from tests.escape.technique import OWN_MEMORY, Alone, Technique, escapes


def attack(world):
    def spring():
        try:
            open(world.canary, "w").write("owned")
        except OSError:
            pass

    atexit.register(spring)
    os.register_at_fork(before=spring)


TECHNIQUE = Technique(
    source="atexit, os.register_at_fork documentation",
    no_event="it may run at the end of the cell, where the broker refuses without anybody listening",
    stops=("memory", "broker"),
    control=Alone("another process's end is not reached"),
    thread=escapes(OWN_MEMORY),
)
