"""Copy a program into a writable directory and run the copy."""

import os

from tests.escape.grants import look_at_tool, outbox_and_other_program
from tests.escape.technique import LANDLOCK_SILENT, Granted, Technique, silent


def attack(world):
    copy = world.outbox + "/copy"
    with open(world.tool, "rb") as source, open(copy, "wb") as target:
        target.write(source.read())
    os.chmod(copy, 0o755)
    world.execute(copy, copy, "ESCAPED:", "copy")


TECHNIQUE = Technique(
    source="CWE-276; W^X of directories",
    policy=lambda p, t: look_at_tool(outbox_and_other_program(p, t), t),
    event=("process.exec",),
    stops=("landlock", "root view"),
    control=Granted(lambda p, t: p.allow_exec(t.outbox)),
    thread=silent(LANDLOCK_SILENT),
)
