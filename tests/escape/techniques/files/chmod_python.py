"""Change the mode of a file outside."""

import os

from tests.escape.technique import Bare, Technique, silent


def attack(world):
    os.chmod(world.canary, 0o600)


TECHNIQUE = Technique(
    source="Landlock does not handle chmod: kernel documentation, userspace-api/landlock",
    event=("fs.metadata",),
    by="broker",
    stops=("broker", "root view"),
    control=Bare(),
    thread=silent("the broker refuses; Landlock alone would not"),
)
