"""Make a child process that shares memory but not descriptors, by clone."""

import os

from tests.escape.grants import fork
from tests.escape.technique import Granted, Technique


def attack(world):
    for flags in (17, 0x400 | 17, 0x200 | 17):
        result, _ = world.attempt("clone", flags, 0, 0, 0, 0)
        if result == 0:
            world.libc._exit(0)
        if result > 0:
            os.waitpid(result, 0)
            world.got("a child")


TECHNIQUE = Technique(
    source="man 2 clone",
    event=("process.fork",),
    by="kernel",
    syscall="clone",
    stops=("notification",),
    control=Granted(fork),
)
