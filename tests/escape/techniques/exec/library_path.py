"""Have a granted program load another C library, by LD_LIBRARY_PATH."""

import os

from tests.escape.technique import Bare, Technique, not_run


def attack(world):
    with open(world.library, "rb") as source, open(world.outbox + "/libc.so.6", "wb") as target:
        target.write(source.read())
    pid = os.fork()
    if pid == 0:
        os.execve("/bin/true", ["true"], {"LD_LIBRARY_PATH": world.outbox, "LD_DEBUG": "files"})
    os.waitpid(pid, 0)


def outside(ground, run):
    library = ground.targets.outbox + "/libc.so.6"
    return "the library was mapped" if library in run.said and "failed to map" not in run.said else ""


TECHNIQUE = Technique(
    source="ld.so(8); T1574.006",
    policy=lambda p, t: p.allow_read(t.library).allow_read(t.outbox).allow_write(t.outbox).allow_exec("/bin/true"),
    effect=outside,
    event=("import.native",),
    stops=("root view",),
    control=Bare(),
    thread=not_run("the program's output goes to the host's own streams, where nobody looks"),
)
