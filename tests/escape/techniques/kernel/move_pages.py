"""Ask where another process's pages are."""

from tests.escape.technique import Alone, Technique


def attack(world):
    world.floor("move_pages", world.victim, 0, None, None, None, 0)


TECHNIQUE = Technique(
    source="move_pages(2): defeats ASLR",
    event=("process.trace",),
    by="kernel",
    syscall="move_pages",
    stops=("seccomp",),
    control=Alone("its answer depends on the machine's memory nodes"),
)
