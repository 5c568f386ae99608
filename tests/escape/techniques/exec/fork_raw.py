"""Make a child process by the raw fork call."""

import os

from tests.escape.grants import fork
from tests.escape.technique import Granted, Technique


def attack(world):
    result, _ = world.attempt("fork")
    if result == 0:
        world.libc._exit(0)
    if result > 0:
        os.waitpid(result, 0)
        world.got("a child")


TECHNIQUE = Technique(
    source="man 2 fork",
    event=("process.fork",),
    by="kernel",
    syscall="fork",
    stops=("notification",),
    control=Granted(fork),
)
