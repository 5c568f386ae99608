"""Try every process id that there can be near the known ones."""

from tests.escape.technique import Bare, Technique, silent


def attack(world):
    kill, own = world.libc.kill, world.libc.getpid()
    found = [
        pid
        for base in (world.victim, world.supervisor)
        for pid in range(max(2, base - 2000), base + 200)
        if pid != own and kill(pid, 0) == 0
    ]
    if found:
        world.got(f"processes {found[:5]}")


TECHNIQUE = Technique(
    source="CWE-340: process ids are guessable",
    event=("process.signal",),
    stops=("namespaces",),
    control=Bare(),
    thread=silent("the filter of a sandbox thread lets the kernel answer"),
)
