"""Signal the supervisor."""

import os
import signal

from tests.escape.technique import Bare, Technique, silent


def attack(world):
    os.kill(world.supervisor, signal.SIGUSR1)
    world.got("a signal")


TECHNIQUE = Technique(
    source="man 2 kill",
    event=("process.signal",),
    stops=("namespaces", "landlock"),
    control=Bare(root=True),
    thread=silent("the filter of a sandbox thread lets the kernel answer"),
)
