"""End by a signal that the host's library has no name for."""

import os
import time

from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    world.libc.kill(os.getpid(), 40)
    time.sleep(5)


TECHNIQUE = Technique(
    source="signal(7): signals for real time; Python's signal.Signals has two of thirty-one",
    no_event="a guest may end itself",
    must_end=("SandboxDied",),
    stops=("supervisor",),
    control=Alone("what is measured is what the host meets; a signal with a name ends it as well"),
    thread=not_run("the process is the host's own"),
)
