"""Load a library from a memfd through /proc/self/fd."""

import ctypes
import os

from tests.escape.grants import native_directory
from tests.escape.technique import Bare, Technique


def attack(world):
    descriptor = world.syscall("memfd_create", b"escape", 0)
    with open(world.library, "rb") as source:
        os.write(descriptor, source.read())
    world.libc.dlopen.restype = ctypes.c_void_p
    if world.libc.dlopen(b"/proc/self/fd/%d" % descriptor, 2):
        world.got("a library from memory")


TECHNIQUE = Technique(
    source="memdlopen: a library from memfd_create(2)",
    policy=native_directory,
    event=("import.native",),
    by="kernel",
    syscall="memfd_create",
    stops=("seccomp",),
    control=Bare(),
)
