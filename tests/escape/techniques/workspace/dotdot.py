"""Climb out of the workspace with dots, by name and from the descriptor of a directory that is gone."""

import os

from tests.escape.grants import read_secret, workspace
from tests.escape.technique import NO_WORKSPACE, Granted, Technique


def attack(world):
    up = "../" * 12 + world.secret.lstrip("/")
    os.makedirs("deep/er")
    held = os.open("deep/er", os.O_DIRECTORY)
    os.rename("deep/er", "moved")
    os.rmdir("moved")
    for directory in (-100, held):
        result, _ = world.attempt("openat", directory, os.fsencode(up), 0)
        if result >= 0:
            world.take(result)
    world.loot(open(f"{world.own}/{up}").read())


TECHNIQUE = Technique(
    source="CWE-22; chroot(2), escape by a held directory",
    policy=workspace,
    event=("fs.read",),
    stops=("broker", "root view", "landlock"),
    control=Granted(lambda p, t: read_secret(workspace(p, t), t)),
    thread=NO_WORKSPACE,
)
