"""Have the dynamic loader run a program that the guest copied itself."""

import os

from tests.escape.grants import look_at_tool, outbox_and_other_program
from tests.escape.technique import Granted, Technique, not_run


def attack(world):
    copy = world.outbox + "/copy"
    with open(world.tool, "rb") as source, open(copy, "wb") as target:
        target.write(source.read())
    os.chmod(copy, 0o755)
    loader = "/lib64/ld-linux-x86-64.so.2"
    world.execute(loader, loader, copy, "ESCAPED:", "loader")


TECHNIQUE = Technique(
    source="GTFOBins ld.so",
    policy=lambda p, t: look_at_tool(outbox_and_other_program(p, t), t),
    event=("import.native",),
    stops=("landlock", "root view"),
    ends=("SandboxDied",),
    control=Granted(lambda p, t: p.allow_exec(t.outbox)),
    thread=not_run("it would replace the host itself"),
)
