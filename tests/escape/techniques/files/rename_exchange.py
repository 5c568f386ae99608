"""Exchange a file of one's own with the secret in one step, by renameat2."""

import os

from tests.escape.grants import writable_outbox
from tests.escape.technique import Bare, Technique, silent


def attack(world):
    mine = world.outbox + "/mine"
    open(mine, "w").close()
    world.syscall("renameat2", -100, os.fsencode(mine), -100, os.fsencode(world.secret), 2)
    world.loot(open(mine).read())


TECHNIQUE = Technique(
    source="man 2 renameat2 (RENAME_EXCHANGE); landlock/fs_test.c",
    policy=writable_outbox,
    event=("fs.create",),
    stops=("root view", "landlock"),
    control=Bare(),
    thread=silent("the listener watches no files of a sandbox thread, and Landlock tells only that it refused"),
)
