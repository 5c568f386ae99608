"""Load a library that was written to the workspace, and map a file of it executable."""

import ctypes
import mmap
import os

from tests.escape.grants import native_directory, workspace
from tests.escape.technique import NO_WORKSPACE, Bare, Technique


def attack(world):
    planted = world.own + "/planted.so"
    with open(world.library, "rb") as source, open(planted, "wb") as target:
        target.write(source.read())
    world.libc.dlopen.restype = ctypes.c_void_p
    for path in (planted, "/dev/shm/planted.so"):
        if world.libc.dlopen(os.fsencode(path), 2):
            world.got("a library of its own")
    descriptor = os.open(planted, os.O_RDWR)
    for sharing in (mmap.MAP_PRIVATE, mmap.MAP_SHARED):
        result, _ = world.attempt("mmap", 0, 4096, 5, sharing, descriptor, 0)
        if result > 0:
            world.got("executable memory from a file of its own")


TECHNIQUE = Technique(
    source="CWE-427; W^X by two mappings of one file",
    policy=lambda p, t: native_directory(workspace(p, t), t),
    event=("import.native",),
    stops=("root view",),
    control=Bare(),
    thread=NO_WORKSPACE,
)
