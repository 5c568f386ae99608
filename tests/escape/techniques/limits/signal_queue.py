"""Fill the user's queue of pending signals, which other processes share."""

import ctypes
import os

from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    world.libc.sigqueue.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
    mask = ctypes.create_string_buffer(b"\xff" * 128)
    world.libc.sigprocmask(0, mask, None)
    sent = 0
    while sent < 200000 and world.libc.sigqueue(os.getpid(), 40, None) == 0:
        sent += 1
    print("QUEUED:", sent)
    if sent > 20000:
        world.got(f"{sent} signals are queued")


TECHNIQUE = Technique(
    source="sigqueue(3), RLIMIT_SIGPENDING is per user",
    no_event="the kernel says EAGAIN at the limit",
    stops=("limits",),
    control=Alone("the number outside depends on the machine's limits"),
    thread=not_run("it would queue signals to the host itself"),
)
