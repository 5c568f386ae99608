"""Read the secret through a symbolic link planted in a writable directory."""

import os

from tests.escape.grants import read_secret, writable_outbox
from tests.escape.technique import Granted, Technique


def attack(world):
    link = world.outbox + "/link"
    os.symlink(world.secret, link)
    world.loot(open(link).read())


TECHNIQUE = Technique(
    source="Linux selftests landlock/fs_test.c (layout1, symlinks); CWE-61",
    policy=writable_outbox,
    event=("fs.read",),
    by="broker",
    stops=("broker", "root view", "landlock"),
    control=Granted(read_secret),
)
