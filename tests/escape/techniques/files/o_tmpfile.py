"""Make an unnamed file outside with O_TMPFILE and give it a name."""

import os

from tests.escape.technique import Bare, Technique, silent


def attack(world):
    descriptor = world.open_raw(world.outside, 0o20000000 | os.O_DIRECTORY | os.O_RDWR)
    world.syscall("linkat", -100, b"/proc/self/fd/%d" % descriptor, -100, os.fsencode(world.outside + "/named"), 0x400)


TECHNIQUE = Technique(
    source="open(2) O_TMPFILE",
    event=("fs.create", "fs.write"),  # an unnamed file is made, then written
    stops=("root view", "landlock"),
    control=Bare(),
    thread=silent("the listener watches no files of a sandbox thread, and Landlock tells only that it refused"),
)
