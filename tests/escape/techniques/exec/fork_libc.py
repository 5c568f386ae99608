"""Fork by the C library, which holds the allocator's locks while it waits for the host's answer."""

import ctypes
import os

from tests.escape.grants import fork
from tests.escape.technique import Granted, Technique


def attack(world):
    world.libc.fork.restype = ctypes.c_int
    child = world.libc.fork()
    if child == 0:
        world.libc._exit(0)
    if child > 0:
        os.waitpid(child, 0)
        world.got("a child")


TECHNIQUE = Technique(
    source="glibc fork(3): malloc's locks; the listener of a sandbox thread lives in the same process",
    event=("process.fork",),
    by="kernel",
    stops=("notification",),
    control=Granted(fork),
    timeout_s=3.0,
)
