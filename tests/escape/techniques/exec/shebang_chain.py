"""Run a granted script whose interpreter is denied."""

from tests.escape.grants import run_tool
from tests.escape.technique import Granted, Technique


def attack(world):
    world.execute(world.script, world.script)


TECHNIQUE = Technique(
    source="execve(2), interpreter scripts",
    policy=lambda p, t: p.allow_exec(t.script),
    no_event="the call is granted; the interpreter is refused by the root view (ENOENT) or Landlock, and neither leaves a record",
    stops=("landlock", "root view"),
    control=Granted(run_tool),
)
