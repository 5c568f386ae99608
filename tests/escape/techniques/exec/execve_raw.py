"""Become another program by a raw system call."""

from tests.escape.grants import run_tool
from tests.escape.technique import Granted, Technique


def attack(world):
    world.execute(world.tool, world.tool, "ESCAPED:", "execve")


TECHNIQUE = Technique(
    source="man 2 execve",
    event=("process.exec",),
    by="kernel",
    syscall="execve",
    stops=("notification", "landlock", "root view"),
    control=Granted(run_tool),
)
