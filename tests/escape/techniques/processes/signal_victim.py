"""End another process of the same user, by a raw system call."""

from tests.escape.technique import Bare, InThread, Technique


def attack(world):
    world.syscall("kill", world.victim, 15)


TECHNIQUE = Technique(
    source="man 2 kill; landlock/scoped_signal_test.c",
    no_event="the cell's pid namespace holds no such process: ESRCH",
    stops=("namespaces", "landlock"),
    control=Bare(),
    thread=InThread("stopped"),
)
