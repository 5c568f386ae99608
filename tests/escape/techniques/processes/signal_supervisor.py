"""Signal the supervisor."""

import os
import signal

from tests.escape.technique import Bare, InThread, Technique


def attack(world):
    os.kill(world.supervisor, signal.SIGUSR1)
    world.got("a signal")


TECHNIQUE = Technique(
    source="man 2 kill",
    no_event="the cell's pid namespace holds no such process: ESRCH",
    stops=("namespaces", "landlock"),
    control=Bare(root=True),
    thread=InThread("stopped"),
)
