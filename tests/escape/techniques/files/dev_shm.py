"""Leave a file in /dev/shm for another sandbox to find."""

import os

from tests.escape.technique import ABSENT, Bare, Technique


def attack(world):
    world.attempt("openat", -100, b"/dev/shm/escape-shared", os.O_CREAT | os.O_WRONLY, 0o666)


TECHNIQUE = Technique(source="shm_overview(7)", no_event=ABSENT, stops=("root view", "landlock"), control=Bare())
