"""Give a granted file to another group of the owner."""

import os

from tests.escape.technique import METADATA, Granted, Technique, escapes


def attack(world):
    world.syscall("fchownat", -100, os.fsencode(world.granted), -1, os.getgid(), 0)


TECHNIQUE = Technique(
    source="Landlock does not handle chown",
    event=("fs.metadata",),
    stops=("root view",),
    control=Granted(lambda p, t: p.allow_write(t.inbox)),
    thread=escapes(METADATA),
)
