"""Run a denied program as the interpreter of a script of one's own."""

import os

from tests.escape.grants import look_at_tool, outbox_and_other_program
from tests.escape.technique import LANDLOCK_SILENT, Granted, Technique, silent


def attack(world):
    script = world.outbox + "/script"
    with open(script, "w") as file:
        file.write(f"#!{world.tool} ESCAPED: shebang\n")
    os.chmod(script, 0o755)
    world.execute(script, script)


TECHNIQUE = Technique(
    source="execve(2), interpreter scripts; landlock/fs_test.c (execute)",
    policy=lambda p, t: look_at_tool(outbox_and_other_program(p, t), t),
    event=("process.exec",),
    stops=("landlock", "root view"),
    control=Granted(lambda p, t: p.allow_exec(t.outbox).allow_exec(t.tool)),
    thread=silent(LANDLOCK_SILENT),
)
