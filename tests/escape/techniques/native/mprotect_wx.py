"""Write memory, then make it executable."""

import ctypes

from tests.escape.technique import Bare, Technique


def attack(world):
    address = world.syscall("mmap", 0, 4096, 3, 0x22, -1, 0)
    ctypes.memmove(address, bytes.fromhex("b82a000000c3"), 6)
    world.syscall("mprotect", address, 4096, 5)
    if ctypes.CFUNCTYPE(ctypes.c_int)(address)() == 42:
        world.got("machine code ran")


TECHNIQUE = Technique(
    source="mprotect(2); W^X",
    event=("memory.exec",),
    by="kernel",
    syscall="mprotect",
    stops=("seccomp",),
    control=Bare(),
)
