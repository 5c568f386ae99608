"""Make device nodes in the workspace, and open what was made."""

import os

from tests.escape.grants import workspace
from tests.escape.technique import NO_WORKSPACE, Bare, Technique


def attack(world):
    for number, (kind, device) in enumerate(((0o20666, 0x101), (0o60666, 0x800), (0o20666, 0x500))):
        path = os.fsencode(f"{world.own}/node{number}")
        result, _ = world.attempt("mknodat", -100, path, kind, device)
        if result == 0:
            world.got(f"device {device:#x}")


TECHNIQUE = Technique(
    source="man 2 mknod",
    policy=workspace,
    event=("fs.create",),
    by="kernel",
    syscall="mknodat",
    stops=("seccomp", "credentials"),
    control=Bare(root=True),
    thread=NO_WORKSPACE,
)
