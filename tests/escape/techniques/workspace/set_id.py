"""Make set-user-id and set-group-id files in the workspace, by chmod, by open and by mkdir."""

import os

from tests.escape.grants import workspace
from tests.escape.technique import NO_WORKSPACE, Bare, Technique


def attack(world):
    path = os.fsencode(world.own + "/tool")
    open(path, "w").close()
    for call in (
        ("fchmodat", -100, path, 0o4755),
        ("fchmodat", -100, path, 0o2755),
        ("openat", -100, path + b"2", os.O_CREAT | os.O_WRONLY, 0o4755),
        ("mknodat", -100, path + b"3", 0o102755, 0),
    ):
        result, _ = world.attempt(*call)
        if result >= 0:
            world.got(call[0])


TECHNIQUE = Technique(
    source="CWE-732",
    policy=workspace,
    event=("fs.metadata",),
    by="kernel",
    syscall="fchmodat",
    stops=("seccomp",),
    control=Bare(),
    thread=NO_WORKSPACE,
)
