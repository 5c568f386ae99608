"""Trace a child of one's own and change its system calls after the filter saw them."""

import os

from tests.escape.grants import fork
from tests.escape.technique import Alone, Technique


def attack(world):
    child = world.fork()
    if child == 0:
        world.libc.syscall(world.nr["ptrace"], 0, 0, 0, 0)
        world.libc._exit(0)
    if child > 0:
        os.waitpid(child, 0)
    world.floor("ptrace", 0x4206, child, 0, 0)


TECHNIQUE = Technique(
    source="seccomp(2): a tracer could change calls after the filter (before 4.8); ptrace(2)",
    policy=fork,
    event=("process.trace",),
    by="kernel",
    syscall="ptrace",
    stops=("seccomp",),
    control=Alone("tracing one's own child is allowed anywhere; processes/ptrace_attach has a control"),
)
