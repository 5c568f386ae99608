"""Move another process to one processor, or to the idle class."""

import struct

from tests.escape.technique import Bare, Technique


def attack(world):
    world.attempt("sched_setaffinity", world.victim, 8, struct.pack("=Q", 1))
    world.attempt("sched_setscheduler", world.victim, 5, struct.pack("=i", 0))
    world.attempt("ioprio_set", 1, world.victim, (3 << 13))


TECHNIQUE = Technique(
    source="sched_setaffinity(2), sched_setscheduler(2), ioprio_set(2)",
    event=("priority.io",),
    by="kernel",
    syscall="ioprio_set",
    stops=("seccomp", "namespaces"),
    control=Bare(),
)
