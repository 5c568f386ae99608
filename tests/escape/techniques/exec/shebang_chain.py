"""Run a granted script whose interpreter is denied."""

from tests.escape.grants import run_tool
from tests.escape.technique import LANDLOCK_SILENT, Granted, Technique, silent


def attack(world):
    world.execute(world.script, world.script)


TECHNIQUE = Technique(
    source="execve(2), interpreter scripts",
    policy=lambda p, t: p.allow_exec(t.script),
    event=("process.exec",),
    stops=("landlock", "root view"),
    control=Granted(run_tool),
    thread=silent(LANDLOCK_SILENT),
)
