"""Have a granted program load a library that the guest planted, by LD_PRELOAD."""

import os

from tests.escape.technique import Bare, Technique, not_run


def attack(world):
    planted = world.outbox + "/planted.so"
    with open(world.library, "rb") as source, open(planted, "wb") as target:
        target.write(source.read())
    environment = {"LD_PRELOAD": planted, "LD_DEBUG": "files"}
    pid = os.fork()
    if pid == 0:
        os.execve("/bin/true", ["true"], environment)
    os.waitpid(pid, 0)


def outside(ground, run):
    return "the library was initialised" if "calling init: " + ground.targets.outbox in run.said else ""


TECHNIQUE = Technique(
    source="ld.so(8); T1574.006",
    policy=lambda p, t: p.allow_read(t.library).allow_read(t.outbox).allow_write(t.outbox).allow_exec("/bin/true"),
    effect=outside,
    event=("import.native",),
    stops=("root view",),
    control=Bare(),
    thread=not_run("the program's output goes to the host's own streams, where nobody looks"),
)
