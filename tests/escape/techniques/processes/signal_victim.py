"""End another process of the same user, by a raw system call."""

from tests.escape.technique import Bare, Technique, silent


def attack(world):
    world.syscall("kill", world.victim, 15)


TECHNIQUE = Technique(
    source="man 2 kill; landlock/scoped_signal_test.c",
    event=("process.signal",),
    stops=("namespaces", "landlock"),
    control=Bare(),
    thread=silent("the filter of a sandbox thread lets the kernel answer"),
)
