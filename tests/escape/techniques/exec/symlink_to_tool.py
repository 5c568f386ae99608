"""Run a denied program by a symbolic link of one's own."""

import os

from tests.escape.grants import look_at_tool, outbox_and_other_program, run_tool
from tests.escape.technique import LANDLOCK_SILENT, Granted, Technique, silent


def attack(world):
    link = world.outbox + "/true"
    os.symlink(world.tool, link)
    world.execute(link, "true", "ESCAPED:", "link")


TECHNIQUE = Technique(
    source="CWE-59",
    policy=lambda p, t: look_at_tool(outbox_and_other_program(p, t), t),
    event=("process.exec",),
    stops=("landlock", "root view"),
    control=Granted(run_tool),
    thread=silent(LANDLOCK_SILENT),
)
