"""Leave a file in /dev/shm for another sandbox to find."""

import os

from tests.escape.technique import Bare, Technique, silent


def attack(world):
    world.attempt("openat", -100, b"/dev/shm/escape-shared", os.O_CREAT | os.O_WRONLY, 0o666)


TECHNIQUE = Technique(
    source="shm_overview(7)",
    event=("fs.create",),
    stops=("root view", "landlock"),
    control=Bare(),
    thread=silent("the listener watches no files of a sandbox thread, and Landlock tells only that it refused"),
)
