"""Put a finder before all others, so that the host's next import runs guest code."""

import sys
import threading

from tests.escape.technique import OWN_MEMORY, Alone, Technique, escapes


def attack(world):
    mine = threading.get_ident()

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if threading.get_ident() != mine:
                sys.meta_path.remove(Finder)
                open(world.canary, "w").write("owned")

    sys.meta_path.insert(0, Finder)


TECHNIQUE = Technique(
    source="PEP 302; pyjail collections: sys.meta_path",
    no_event="nothing is refused: the interpreter is the guest's own",
    stops=("memory",),
    control=Alone("another process's imports are not reached"),
    thread=escapes(OWN_MEMORY),
)
