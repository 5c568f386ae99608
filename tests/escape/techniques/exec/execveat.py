"""Run a program by its descriptor: execveat with AT_EMPTY_PATH."""

from tests.escape.grants import look_at_tool, run_tool
from tests.escape.technique import Granted, Technique


def attack(world):
    world.execute("", "tool", "ESCAPED:", "execveat", name="execveat", descriptor=world.open_raw(world.tool))


TECHNIQUE = Technique(
    source="man 2 execveat; landlock/fs_test.c (execute)",
    policy=look_at_tool,
    event=("process.exec",),
    by="kernel",
    syscall="execveat",
    stops=("notification", "landlock", "root view"),
    control=Granted(run_tool),
)
