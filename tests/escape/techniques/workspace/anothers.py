"""Reach the workspace of another sandbox, by name and through /proc."""

import os

from tests.escape.grants import workspace
from tests.escape.technique import NO_WORKSPACE, Bare, Technique


def attack(world):
    for path in (
        f"/proc/{world.sibling}/root/sandbox/workspace/token",
        f"/proc/{world.sibling}/cwd/token",
        f"/proc/{world.supervisor}/root/sandbox/workspace/token",
        "/sandbox/workspace/token",
        "/sandbox/../sandbox/workspace/token",
        "/dev/shm/token",
    ):
        result, _ = world.attempt("openat", -100, os.fsencode(path), 0)
        if result >= 0:
            world.take(result)


TECHNIQUE = Technique(
    source="mount_namespaces(7); proc(5)",
    policy=workspace,
    event=("fs.read",),
    unseen_bpf="without a root view the host's /proc is there, whose own check of users (ptrace(2)) refuses first",
    stops=("root view", "landlock", "namespaces"),
    control=Bare(root=True),
    thread=NO_WORKSPACE,
)
