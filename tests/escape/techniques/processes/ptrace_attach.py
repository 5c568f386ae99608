"""Attach to another process of the same user."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("ptrace", 16, world.victim, 0, 0)


TECHNIQUE = Technique(
    source="ptrace(2); landlock/ptrace_test.c",
    event=("process.trace",),
    by="kernel",
    syscall="ptrace",
    stops=("seccomp", "namespaces", "landlock"),
    control=Bare(),
)
