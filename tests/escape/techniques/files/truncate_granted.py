"""Empty a file that is granted for reading only, by truncate and O_TRUNC."""

import os

from tests.escape.technique import Granted, Technique, silent


def attack(world):
    world.attempt("openat", -100, os.fsencode(world.granted), os.O_TRUNC)
    world.syscall("truncate", os.fsencode(world.granted), 0)


TECHNIQUE = Technique(
    source="landlock/fs_test.c (truncate): O_RDONLY|O_TRUNC",
    event=("fs.write",),
    stops=("root view", "landlock"),
    control=Granted(lambda p, t: p.allow_write(t.inbox)),
    thread=silent("the listener watches no files of a sandbox thread, and Landlock tells only that it refused"),
)
