"""Become a program that is not granted where another is."""

from tests.escape.grants import readable_tool_and_other_program, run_tool
from tests.escape.technique import Granted, Technique


def attack(world):
    world.execute(world.tool, world.tool, "ESCAPED:", "execve")


TECHNIQUE = Technique(
    source="man 2 execve",
    policy=readable_tool_and_other_program,
    no_event="Landlock or the root view's noexec refuses the file; the call itself is granted, and neither leaves a record",
    stops=("landlock", "root view"),
    control=Granted(run_tool),
)
