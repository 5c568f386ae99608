"""Ask that every readable mapping is executable."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("personality", 0x0400000)


TECHNIQUE = Technique(
    source="personality(2) READ_IMPLIES_EXEC",
    event=("memory.exec",),
    by="kernel",
    syscall="personality",
    stops=("seccomp",),
    control=Bare(),
)
