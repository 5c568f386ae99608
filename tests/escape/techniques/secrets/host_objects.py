"""Look among all objects for those of the host: its supervisor, other sandboxes, their events."""

import gc

from tests.escape.technique import OWN_MEMORY, Alone, Technique, escapes


def attack(world):
    gc.unfreeze()  # what a zygote had made is left out of the list otherwise
    for thing in gc.get_objects():
        name = type(thing).__name__
        if name in ("Supervisor", "Recorder", "Pool", "Listener", "Worker"):
            world.got(f"an object of the host: {name}")


TECHNIQUE = Technique(
    source="gc.get_objects documentation; memory is shared in a thread",
    no_event="nothing is refused: the memory is the guest's own",
    stops=("memory",),
    control=Alone("a cell is forked from a process that never had them"),
    thread=escapes(OWN_MEMORY),
)
