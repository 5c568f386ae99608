"""Find the broker among all objects and make it say yes."""

import gc

from tests.escape.grants import read_secret
from tests.escape.technique import OWN_MEMORY, Granted, Technique, escapes


def attack(world):
    gc.unfreeze()  # what a zygote had made is left out of the list otherwise
    for thing in gc.get_objects():
        if type(thing).__name__ == "Broker":
            kind = type(thing)
            for name in [name for name in dir(kind) if name.startswith("decide")]:
                setattr(kind, name, lambda *_arguments, **_options: None)
    descriptor = world.open_raw(world.secret)
    world.take(descriptor)


TECHNIQUE = Technique(
    source="pyjail collections: gc.get_objects(); PEP 578: hooks are no sandbox",
    event=("fs.read",),
    stops=("root view", "landlock"),
    control=Granted(read_secret),
    thread=escapes(OWN_MEMORY),
)
