"""Move a file of one's own over a file outside."""

import os

from tests.escape.grants import writable_outbox
from tests.escape.technique import Bare, Technique


def attack(world):
    mine = world.outbox + "/mine"
    open(mine, "w").close()
    os.replace(mine, world.canary)


TECHNIQUE = Technique(
    source="man 2 rename",
    policy=writable_outbox,
    event=("fs.create", "fs.delete", "fs.write"),
    by="broker",
    stops=("broker", "root view", "landlock"),
    control=Bare(),
)
