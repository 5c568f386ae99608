"""Climb a thousand levels, past the root of any view."""

import os

from tests.escape.grants import read_secret
from tests.escape.technique import ABSENT, Granted, Technique


def attack(world):
    result, _ = world.attempt("openat", -100, b"../" * 1000 + os.fsencode(world.secret.lstrip("/")), 0)
    if result >= 0:
        world.take(result)


TECHNIQUE = Technique(
    source="chroot(2)", no_event=ABSENT, stops=("root view", "landlock"), control=Granted(read_secret)
)
