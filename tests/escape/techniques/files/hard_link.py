"""Link the secret into a writable directory, then read the link."""

import os

from tests.escape.grants import writable_outbox
from tests.escape.technique import Bare, Technique


def attack(world):
    os.link(world.secret, world.outbox + "/hard")
    world.loot(open(world.outbox + "/hard").read())


TECHNIQUE = Technique(
    source="Linux selftests landlock/fs_test.c (link, LANDLOCK_ACCESS_FS_REFER)",
    policy=writable_outbox,
    event=("fs.read", "fs.create"),
    by="broker",
    stops=("broker", "root view", "landlock"),
    control=Bare(),
)
