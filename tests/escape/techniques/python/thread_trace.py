"""Ask that every new thread of the process runs a trace function."""

import sys
import threading

from tests.escape.technique import OWN_MEMORY, Alone, Technique, escapes


def attack(world):
    def spring(*_):
        threading.setprofile(None)
        sys.setprofile(None)
        open(world.canary, "w").write("owned")

    threading.setprofile(spring)


TECHNIQUE = Technique(
    source="threading.setprofile documentation",
    no_event="nothing is refused: the interpreter is the guest's own",
    stops=("memory",),
    control=Alone("another process's threads are not reached"),
    thread=escapes(OWN_MEMORY),
)
