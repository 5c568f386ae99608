"""Delete a file and a directory outside."""

import os

from tests.escape.grants import write_outside
from tests.escape.technique import ABSENT, Granted, Technique


def attack(world):
    world.attempt("unlinkat", -100, os.fsencode(world.outside + "/below/canary.txt"), 0)
    world.syscall("unlinkat", -100, os.fsencode(world.outside + "/below"), 0x200)


TECHNIQUE = Technique(
    source="landlock/fs_test.c (remove_file, remove_dir)",
    no_event=ABSENT,
    stops=("root view", "landlock"),
    control=Granted(write_outside),
)
