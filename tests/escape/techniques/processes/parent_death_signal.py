"""Outlive the supervisor: clear the signal that comes at the parent's death."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("prctl", 1, 0, 0, 0, 0)


TECHNIQUE = Technique(
    source="prctl(2) PR_SET_PDEATHSIG",
    event=("kernel.syscall",),
    by="kernel",
    syscall="prctl",
    stops=("seccomp",),
    control=Bare(),
)
