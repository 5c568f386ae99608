"""Set a granted file's times through a read-only descriptor."""

import struct

from tests.escape.technique import METADATA, Granted, Technique, escapes


def attack(world):
    world.syscall("utimensat", world.open_raw(world.granted), None, struct.pack("=4q", 1, 0, 1, 0), 0)


TECHNIQUE = Technique(
    source="Landlock does not handle utime",
    event=("fs.metadata",),
    stops=("root view",),
    control=Granted(lambda p, t: p.allow_write(t.inbox)),
    thread=escapes(METADATA),
)
