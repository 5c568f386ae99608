"""Write an extended attribute to a file that is granted for reading only."""

import os

from tests.escape.technique import METADATA, Granted, Technique, escapes


def attack(world):
    world.syscall("setxattr", os.fsencode(world.granted), b"user.escape", b"owned", 5, 0)


TECHNIQUE = Technique(
    source="Landlock does not handle setxattr",
    event=("fs.metadata",),
    stops=("root view",),
    control=Granted(lambda p, t: p.allow_write(t.inbox)),
    thread=escapes(METADATA),
)
