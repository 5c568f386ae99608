"""Become another program."""

import os

from tests.escape.grants import run_tool
from tests.escape.technique import Granted, Technique


def attack(world):
    words = [world.tool, "ESCAPED:", "execv"]
    try:
        if os.fork() == 0:
            os.execv(world.tool, words)
        os.wait()
    except PermissionError:
        os.execv(world.tool, words)


TECHNIQUE = Technique(
    source="man 2 execve",
    event=("process.exec",),
    by="broker",
    stops=("broker", "notification", "landlock"),
    control=Granted(run_tool, {}),
)
