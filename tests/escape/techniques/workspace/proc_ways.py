"""Leave the workspace through what /proc shows of working directories, roots and descriptors."""

import os

from tests.escape.grants import workspace
from tests.escape.technique import NO_WORKSPACE, Bare, Technique


def attack(world):
    held = os.open(world.own, os.O_DIRECTORY)
    for way in ("self/root", "self/cwd", "1/cwd", "2/root", "thread-self/root", f"self/fd/{held}"):
        for up in ("", "/../../../../.."):
            result, _ = world.attempt("openat", -100, os.fsencode(f"/proc/{way}{up}{world.secret}"), 0)
            if result >= 0:
                world.take(result)


TECHNIQUE = Technique(
    source="proc(5); CVE-2024-21626, CVE-2019-5736",
    policy=workspace,
    event=("fs.read",),
    stops=("root view", "landlock"),
    control=Bare(),
    thread=NO_WORKSPACE,
)
