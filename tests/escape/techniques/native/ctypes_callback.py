"""Have libffi make executable memory for a callback."""

import ctypes

from tests.escape.technique import Bare, Technique, silent


def attack(world):
    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    callback = kind(lambda one, two: 0)
    world.got(f"executable memory of libffi: {callback}")


TECHNIQUE = Technique(
    source="libffi closures: mmap W+X, then a file in a writable place",
    event=("memory.exec", "import.native"),
    by="kernel",
    stops=("seccomp",),
    ends=("MemoryExceeded",),
    control=Bare(),
    thread=silent("libffi has memory from before, made by the host"),
)
