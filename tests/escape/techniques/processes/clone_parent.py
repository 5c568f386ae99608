"""Make a child that is the zygote's: clone with CLONE_PARENT."""

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
    result, _ = world.attempt("clone", 0x8000 | 17, 0, 0, 0, 0)
    if result == 0:
        world.libc._exit(0)
    if result > 0:
        world.got("a sibling of the cell")


TECHNIQUE = Technique(
    source="clone(2) CLONE_PARENT: EINVAL for init",
    policy=fork,
    no_event="forking is granted; the kernel refuses it to an init (EINVAL)",
    stops=("namespaces",),
    control=Alone("a child of this test's own parent would be left to it"),
    thread=not_run("the child would be the test runner's"),
)
