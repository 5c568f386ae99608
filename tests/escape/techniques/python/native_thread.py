"""Do it from a thread that the C library starts, which Python has never seen."""

import ctypes
import os
import time

from tests.escape.grants import write_outside
from tests.escape.technique import ABSENT, Granted, Technique


def attack(world):
    path = ctypes.create_string_buffer(os.fsencode(world.canary))
    pthread = ctypes.c_ulong()
    start = world.libc.pthread_create
    truncate = ctypes.cast(world.libc.unlink, ctypes.c_void_p)
    start(ctypes.byref(pthread), None, truncate, path)
    time.sleep(0.1)


TECHNIQUE = Technique(
    source="pthread_create(3) on a C function: no interpreter state, no hook",
    no_event=ABSENT,
    stops=("root view", "landlock"),
    control=Granted(write_outside),
)
