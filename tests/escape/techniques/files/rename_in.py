"""Move the secret into a writable directory and read it there."""

import os

from tests.escape.grants import writable_outbox
from tests.escape.technique import Bare, Technique


def attack(world):
    moved = world.outbox + "/moved"
    os.rename(world.secret, moved)
    world.loot(open(moved).read())


TECHNIQUE = Technique(
    source="Linux selftests landlock/fs_test.c (rename, refer)",
    policy=writable_outbox,
    event=("fs.read", "fs.delete", "fs.create"),
    by="broker",
    stops=("broker", "root view", "landlock"),
    control=Bare(),
)
