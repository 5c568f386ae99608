"""Do it from a thread that the C library starts, which Python has never seen."""

import ctypes
import os
import time

from tests.escape.grants import write_outside
from tests.escape.technique import Granted, Technique, silent


def attack(world):
    path = ctypes.create_string_buffer(os.fsencode(world.canary))
    pthread = ctypes.c_ulong()
    start = world.libc.pthread_create
    truncate = ctypes.cast(world.libc.unlink, ctypes.c_void_p)
    start(ctypes.byref(pthread), None, truncate, path)
    time.sleep(0.1)


TECHNIQUE = Technique(
    source="pthread_create(3) on a C function: no interpreter state, no hook",
    event=("fs.delete",),
    stops=("root view", "landlock"),
    control=Granted(write_outside),
    thread=silent("the listener watches no files of a sandbox thread, and Landlock tells only that it refused"),
)
