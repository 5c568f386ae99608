"""Delete a file that is granted for reading only."""

import os

from tests.escape.technique import Granted, Technique


def attack(world):
    os.unlink(world.granted)


TECHNIQUE = Technique(
    source="landlock/fs_test.c (remove_file)",
    event=("fs.delete",),
    by="broker",
    stops=("broker", "root view", "landlock"),
    control=Granted(lambda p, t: p.allow_write(t.inbox)),
)
