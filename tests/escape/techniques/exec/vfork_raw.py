"""Make a child process by the raw vfork call, which shares memory."""

import os

from tests.escape.grants import fork
from tests.escape.technique import Granted, Technique


def attack(world):
    result, _ = world.attempt("clone", 0x4000 | 17, 0, 0, 0, 0)
    if result == 0:
        world.libc._exit(0)
    if result > 0:
        os.waitpid(result, 0)
        world.got("a child")


TECHNIQUE = Technique(
    source="man 2 vfork",
    event=("process.fork",),
    by="kernel",
    syscall="clone",
    stops=("notification",),
    control=Granted(fork),
)
