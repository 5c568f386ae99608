"""Run a readable program by its descriptor where another is granted."""

from tests.escape.grants import readable_tool_and_other_program, run_tool
from tests.escape.technique import LANDLOCK_SILENT, Granted, Technique, silent


def attack(world):
    descriptor = world.open_raw(world.tool)
    world.execute("", "tool", "ESCAPED:", "execveat", name="execveat", descriptor=descriptor)
    world.execute(f"/proc/self/fd/{descriptor}", "tool", "ESCAPED:", "fexecve")


TECHNIQUE = Technique(
    source="man 2 execveat; man 3 fexecve",
    policy=readable_tool_and_other_program,
    event=("process.exec",),
    stops=("landlock", "root view"),
    control=Granted(run_tool),
    thread=silent(LANDLOCK_SILENT),
)
