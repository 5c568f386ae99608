"""Run a program that was written to the workspace: by name, by descriptor, by script and by a name that leads there."""

import os

from tests.escape.grants import workspace_and_other_program
from tests.escape.technique import NO_WORKSPACE, Bare, Technique


def attack(world):
    tool, script = world.own + "/tool", world.own + "/script"
    with open(world.tool, "rb") as source, open(tool, "wb") as target:
        target.write(source.read())
    with open(script, "w") as target:
        target.write(f"#!{tool} ESCAPED:\n")
    for path in (tool, script):
        os.chmod(path, 0o755)
        world.execute(path, path, "ESCAPED:", "by name")
    world.execute("/dev/shm/tool", "tool", "ESCAPED:", "by another name")
    world.execute("", "tool", "ESCAPED:", "by descriptor", name="execveat", descriptor=os.open(tool, os.O_RDONLY))


TECHNIQUE = Technique(
    source="CWE-276; man 2 execveat",
    policy=workspace_and_other_program,
    event=("process.exec",),
    stops=("root view", "landlock"),
    control=Bare(),
    thread=NO_WORKSPACE,
)
