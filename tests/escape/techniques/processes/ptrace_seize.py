"""Seize the supervisor."""

from tests.escape.technique import Bare, InThread, Technique


def attack(world):
    world.floor("ptrace", 0x4206, world.supervisor, 0, 0)


TECHNIQUE = Technique(
    source="ptrace(2)",
    event=("process.trace",),
    by="kernel",
    syscall="ptrace",
    stops=("seccomp", "namespaces", "landlock"),
    control=Bare(root=True),
    thread=InThread("stopped"),
)
