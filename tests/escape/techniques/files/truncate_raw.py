"""Empty a file outside by truncate."""

import os

from tests.escape.grants import write_outside
from tests.escape.technique import Granted, Technique, silent


def attack(world):
    world.syscall("truncate", os.fsencode(world.canary), 0)


TECHNIQUE = Technique(
    source="landlock/fs_test.c (truncate, ABI 3)",
    event=("fs.write",),
    stops=("root view", "landlock"),
    control=Granted(write_outside),
    thread=silent("the listener watches no files of a sandbox thread, and Landlock tells only that it refused"),
)
