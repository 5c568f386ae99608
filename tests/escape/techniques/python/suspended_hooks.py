"""Use the runtime's own switch for its own reads."""

import gc

from tests.escape.grants import read_secret
from tests.escape.technique import LANDLOCK_SILENT, Granted, Technique, silent


def attack(world):
    gc.unfreeze()  # what a zygote had made is left out of the list otherwise
    for thing in gc.get_objects():
        if type(thing).__name__ == "GuestHooks":
            with thing.suspended():
                world.loot(open(world.secret).read())


TECHNIQUE = Technique(
    source="this project: pyisolate/hooks, suspended()",
    event=("fs.read",),
    stops=("root view", "landlock"),
    control=Granted(read_secret),
    thread=silent(LANDLOCK_SILENT),
)
