"""Register a callback with the garbage collector."""

import gc
import threading

from tests.escape.technique import OWN_MEMORY, Alone, Technique, escapes


def attack(world):
    mine = threading.get_ident()

    def spring(*_):
        if threading.get_ident() != mine:
            open(world.canary, "w").write("owned")
            gc.callbacks.remove(spring)

    gc.callbacks.append(spring)


TECHNIQUE = Technique(
    source="gc.callbacks documentation",
    no_event="nothing is refused: the interpreter is the guest's own",
    stops=("memory",),
    control=Alone("another process's collector is not reached"),
    thread=escapes(OWN_MEMORY),
)
