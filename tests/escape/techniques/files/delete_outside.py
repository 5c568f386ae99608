"""Delete a file and a directory outside."""

import os

from tests.escape.grants import write_outside
from tests.escape.technique import Granted, Technique, silent


def attack(world):
    world.attempt("unlinkat", -100, os.fsencode(world.outside + "/below/canary.txt"), 0)
    world.syscall("unlinkat", -100, os.fsencode(world.outside + "/below"), 0x200)


TECHNIQUE = Technique(
    source="landlock/fs_test.c (remove_file, remove_dir)",
    event=("fs.delete",),
    stops=("root view", "landlock"),
    control=Granted(write_outside),
    thread=silent("the listener watches no files of a sandbox thread, and Landlock tells only that it refused"),
)
