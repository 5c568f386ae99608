"""Give a name to an open descriptor with linkat and AT_EMPTY_PATH, and through /proc/self/fd."""

import os

from tests.escape.grants import writable_outbox
from tests.escape.technique import Bare, Technique, silent


def attack(world):
    target = os.fsencode(world.outside + "/linked")
    descriptor = world.open_raw(world.granted)
    world.attempt("linkat", descriptor, b"", -100, target, 0x1000)
    world.attempt("linkat", -100, b"/proc/self/fd/%d" % descriptor, -100, target, 0x400)
    world.attempt("linkat", -100, os.fsencode(world.granted), -100, target, 0)


TECHNIQUE = Technique(
    source="man 2 linkat (AT_EMPTY_PATH); open(2) O_TMPFILE",
    policy=writable_outbox,
    event=("fs.read", "fs.create"),
    stops=("root view", "landlock"),
    control=Bare(),
    thread=silent("the listener watches no files of a sandbox thread, and Landlock tells only that it refused"),
)
