"""Read another process's limits."""

import ctypes

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("prlimit64", world.victim, 7, None, ctypes.create_string_buffer(16))


TECHNIQUE = Technique(
    source="prlimit(2)",
    event=("process.trace",),
    by="kernel",
    syscall="prlimit64",
    stops=("seccomp", "namespaces"),
    control=Bare(),
)
