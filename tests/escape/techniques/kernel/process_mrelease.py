"""Reap another process's memory."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("process_mrelease", 1, 0)


TECHNIQUE = Technique(
    source="process_mrelease(2)",
    event=("process.trace",),
    by="kernel",
    syscall="process_mrelease",
    stops=("seccomp",),
    control=Bare(answer="EBADF|EINVAL"),
)
