"""Empty a file outside by truncate."""

import os

from tests.escape.grants import write_outside
from tests.escape.technique import ABSENT, Granted, Technique


def attack(world):
    world.syscall("truncate", os.fsencode(world.canary), 0)


TECHNIQUE = Technique(
    source="landlock/fs_test.c (truncate, ABI 3)",
    no_event=ABSENT,
    stops=("root view", "landlock"),
    control=Granted(write_outside),
)
