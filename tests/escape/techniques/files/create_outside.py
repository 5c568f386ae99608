"""Create a file outside every way there is: open, creat, mknod, mkdir, symlink, bind."""

import os

from tests.escape.grants import write_outside
from tests.escape.technique import Granted, Technique, silent


def attack(world):
    name = os.fsencode(world.outside + "/planted")
    world.attempt("openat", -100, name, os.O_CREAT | os.O_WRONLY, 0o644)
    world.attempt("creat", name, 0o644)
    world.attempt("mknodat", -100, name, 0o100644, 0)
    world.attempt("mknodat", -100, name, 0o10644, 0)
    world.attempt("mkdirat", -100, name, 0o755)
    world.attempt("symlinkat", b"/", -100, name)


TECHNIQUE = Technique(
    source="landlock/fs_test.c (make_*)",
    event=("fs.create",),
    stops=("root view", "landlock"),
    control=Granted(write_outside),
    thread=silent("the listener watches no files of a sandbox thread, and Landlock tells only that it refused"),
)
