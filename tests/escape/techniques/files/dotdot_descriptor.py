"""Climb out of a granted directory from its descriptor, with openat and fchdir."""

import os

from tests.escape.grants import read_secret
from tests.escape.technique import Granted, Technique, silent


def attack(world):
    directory = world.open_raw(world.inbox, os.O_DIRECTORY)
    world.attempt("openat", directory, b"../vault/secret", 0)
    world.attempt("fchdir", directory)
    result, _ = world.attempt("openat", -100, b"../vault/secret", 0)
    if result >= 0:
        world.take(result)


TECHNIQUE = Technique(
    source="chroot(2), escape by a held directory; CVE-2024-21626",
    event=("fs.read",),
    stops=("root view", "landlock"),
    control=Granted(read_secret),
    thread=silent("the listener watches no files of a sandbox thread, and Landlock tells only that it refused"),
)
