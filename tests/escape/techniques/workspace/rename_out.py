"""Move a file of the workspace over one outside, and exchange the two."""

import os

from tests.escape.grants import workspace
from tests.escape.technique import NO_WORKSPACE, Bare, Technique


def attack(world):
    mine, canary = os.fsencode(world.own + "/mine"), os.fsencode(world.canary)
    for flags in (0, 2):
        open(mine, "w").close()
        world.attempt("renameat2", -100, mine, -100, canary, flags)


TECHNIQUE = Technique(
    source="man 2 renameat2, RENAME_EXCHANGE",
    policy=workspace,
    event=("fs.create", "fs.delete", "fs.write"),
    unseen_bpf="a workspace is a mount of its own: the kernel says EXDEV before it asks any program",
    stops=("root view", "landlock"),
    control=Bare(),
    thread=NO_WORKSPACE,
)
