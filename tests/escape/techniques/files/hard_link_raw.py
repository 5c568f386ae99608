"""Link the secret into a writable directory by linkat, with and without following links."""

import os

from tests.escape.grants import writable_outbox
from tests.escape.technique import Bare, Technique, silent


def attack(world):
    target = os.fsencode(world.outbox + "/hard")
    for flags in (0, 0x400):
        result, _ = world.attempt("linkat", -100, os.fsencode(world.secret), -100, target, flags)
        if result == 0:
            world.take(world.open_raw(target))


TECHNIQUE = Technique(
    source="man 2 linkat",
    policy=writable_outbox,
    event=("fs.read", "fs.create"),
    stops=("root view", "landlock"),
    control=Bare(),
    thread=silent("the listener watches no files of a sandbox thread, and Landlock tells only that it refused"),
)
