"""Climb a thousand levels, past the root of any view."""

import os

from tests.escape.grants import read_secret
from tests.escape.technique import Granted, Technique, silent


def attack(world):
    result, _ = world.attempt("openat", -100, b"../" * 1000 + os.fsencode(world.secret.lstrip("/")), 0)
    if result >= 0:
        world.take(result)


TECHNIQUE = Technique(
    source="chroot(2)",
    event=("fs.read",),
    stops=("root view", "landlock"),
    control=Granted(read_secret),
    thread=silent("the listener watches no files of a sandbox thread, and Landlock tells only that it refused"),
)
