"""Become a program that is not granted where another is."""

from tests.escape.grants import readable_tool_and_other_program, run_tool
from tests.escape.technique import LANDLOCK_SILENT, Granted, Technique, silent


def attack(world):
    world.execute(world.tool, world.tool, "ESCAPED:", "execve")


TECHNIQUE = Technique(
    source="man 2 execve",
    policy=readable_tool_and_other_program,
    event=("process.exec",),
    stops=("landlock", "root view"),
    control=Granted(run_tool),
    thread=silent(LANDLOCK_SILENT),
)
