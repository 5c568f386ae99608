"""Set the times of a file that is granted for reading only."""

import os
import struct

from tests.escape.technique import METADATA, Granted, Technique, escapes


def attack(world):
    world.syscall("utimensat", -100, os.fsencode(world.granted), struct.pack("=4q", 1, 0, 1, 0), 0)


TECHNIQUE = Technique(
    source="Landlock does not handle utime",
    event=("fs.metadata",),
    stops=("root view",),
    control=Granted(lambda p, t: p.allow_write(t.inbox)),
    thread=escapes(METADATA),
)
