"""Link a file outside into the workspace, and one of the workspace outside."""

import os

from tests.escape.grants import workspace
from tests.escape.technique import NO_WORKSPACE, Bare, Technique


def attack(world):
    inward = os.fsencode(world.own + "/inward")
    result, _ = world.attempt("linkat", -100, os.fsencode(world.secret), -100, inward, 0)
    if result == 0:
        world.take(world.open_raw(inward))
    open(world.own + "/mine", "w").close()
    outward = os.fsencode(world.outside + "/outward")
    world.attempt("linkat", -100, os.fsencode(world.own + "/mine"), -100, outward, 0)


TECHNIQUE = Technique(
    source="man 2 linkat; CWE-62",
    policy=workspace,
    event=("fs.read", "fs.create"),
    unseen_bpf="a workspace is a mount of its own: the kernel says EXDEV before it asks any program",
    stops=("root view", "landlock"),
    control=Bare(),
    thread=NO_WORKSPACE,
)
