"""Make children that are somebody else's, and are to outlive the cell: clone with CLONE_PARENT."""

import ctypes
import os

from tests.escape.grants import fork
from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    child = world.fork()
    if child == 0:
        libc = ctypes.PyDLL(None)
        pid = libc.syscall(ctypes.c_long(world.nr["clone"]), ctypes.c_long(0x8000 | 17), 0, 0, 0, 0)
        if pid == 0:
            libc.sleep(60)
        libc._exit(0)
    os.waitpid(child, 0)
    if ctypes.PyDLL(None).syscall(ctypes.c_long(world.nr["clone"]), ctypes.c_long(0x8000 | 17), 0, 0, 0, 0) == 0:
        ctypes.PyDLL(None).sleep(60)
        world.libc._exit(0)


TECHNIQUE = Technique(
    source="clone(2) CLONE_PARENT",
    policy=fork,
    no_event="forking is granted; their parent is the cell's init, with which they end",
    stops=("namespaces",),
    control=Alone("a process outside would stay for a minute; the judge counts what is left of the cell's namespace"),
    thread=not_run("the child would be the test runner's"),
)
