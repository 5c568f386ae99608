"""Change the mode of a file outside by system call, which Landlock does not handle."""

import os

from tests.escape.technique import METADATA, Bare, Technique, escapes


def attack(world):
    world.syscall("fchmodat", -100, os.fsencode(world.canary), 0o600)


TECHNIQUE = Technique(
    source="Landlock does not handle chmod: kernel documentation, userspace-api/landlock",
    event=("fs.metadata",),
    stops=("root view",),
    control=Bare(),
    thread=escapes(METADATA),
)
