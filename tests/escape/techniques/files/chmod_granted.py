"""Change the mode of a file that is granted for reading only."""

import os

from tests.escape.technique import METADATA, Granted, Technique, escapes


def attack(world):
    world.syscall("fchmodat", -100, os.fsencode(world.granted), 0o600)


TECHNIQUE = Technique(
    source="Landlock does not handle chmod: kernel documentation, userspace-api/landlock",
    event=("fs.metadata",),
    stops=("root view",),
    control=Granted(lambda p, t: p.allow_write(t.inbox)),
    thread=escapes(METADATA),
)
