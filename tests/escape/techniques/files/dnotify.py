"""Ask for signals about a directory with fcntl F_NOTIFY."""

import os

from tests.escape.technique import Bare, Technique


def attack(world):
    descriptor = world.open_raw(world.inbox, os.O_DIRECTORY)
    result, _ = world.attempt("fcntl", descriptor, 1026, 0x80000000 | 0x2)
    if result == 0:
        world.got("dnotify")


TECHNIQUE = Technique(
    source="fcntl(2) F_NOTIFY",
    event=("kernel.syscall",),
    by="kernel",
    syscall="fcntl",
    stops=("seccomp",),
    control=Bare(),
)
