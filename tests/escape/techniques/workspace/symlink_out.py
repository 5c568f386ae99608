"""Leave the workspace by a symbolic link, in it and through the names that lead to it."""

import os

from tests.escape.grants import read_secret, workspace
from tests.escape.technique import NO_WORKSPACE, Granted, Technique


def attack(world):
    os.symlink(world.secret, "link")
    os.symlink("/", "top")
    for path in (f"{world.own}/link", f"{world.own}/top{world.secret}", "/dev/shm/link", f"/dev/shm/top{world.secret}"):
        result, _ = world.attempt("openat", -100, os.fsencode(path), 0)
        if result >= 0:
            world.take(result)


TECHNIQUE = Technique(
    source="CWE-61",
    policy=workspace,
    event=("fs.read",),
    stops=("root view", "landlock"),
    control=Granted(lambda p, t: read_secret(workspace(p, t), t)),
    thread=NO_WORKSPACE,
)
