"""Start a program by posix_spawn, past Python."""

import ctypes
import os

from tests.escape.grants import run_tool
from tests.escape.technique import Granted, Technique


def attack(world):
    pid = ctypes.c_int()
    argv = (ctypes.c_char_p * 4)(os.fsencode(world.tool), b"ESCAPED:", b"spawn", None)
    error = world.libc.posix_spawn(ctypes.byref(pid), os.fsencode(world.tool), None, None, argv, None)
    if error == 0:
        os.waitpid(pid.value, 0)


TECHNIQUE = Technique(
    source="posix_spawn(3): clone3 or clone with CLONE_VFORK",
    event=("process.fork",),
    by="kernel",
    stops=("notification", "landlock"),
    control=Granted(run_tool),
)
