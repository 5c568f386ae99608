"""Run a readable program by its descriptor where another is granted."""

from tests.escape.grants import readable_tool_and_other_program, run_tool
from tests.escape.technique import Granted, Technique


def attack(world):
    descriptor = world.open_raw(world.tool)
    world.execute("", "tool", "ESCAPED:", "execveat", name="execveat", descriptor=descriptor)
    world.execute(f"/proc/self/fd/{descriptor}", "tool", "ESCAPED:", "fexecve")


TECHNIQUE = Technique(
    source="man 2 execveat; man 3 fexecve",
    policy=readable_tool_and_other_program,
    no_event="the call is granted; the file is refused by Landlock or by the root view's noexec, and neither leaves a record",
    stops=("landlock", "root view"),
    control=Granted(run_tool),
)
