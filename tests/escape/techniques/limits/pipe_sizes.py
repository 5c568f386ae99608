"""Enlarge pipes until those of other processes of the same user are made with two pages."""

import os

from tests.escape.technique import Bare, Technique, not_run


def attack(world):
    for _ in range(16):
        for end in os.pipe():
            size, _ = world.attempt("fcntl", end, 1031, 1 << 20)
            if size > 1 << 16:
                world.got(f"a pipe of {size} bytes")


TECHNIQUE = Technique(
    source="pipe(7), fs.pipe-user-pages-soft; F_SETPIPE_SZ counts for the user who made the pipe",
    event=("limit.memory",),
    syscall="fcntl",
    by="kernel",
    stops=("notification", "limits"),
    control=Bare(),
    thread=not_run("the pipes of a thread are the host's"),
)
