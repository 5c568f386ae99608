"""Make memory executable with a protection key."""

import ctypes

from tests.escape.technique import Bare, Technique


def attack(world):
    address = world.syscall("mmap", 0, 4096, 3, 0x22, -1, 0)
    ctypes.memmove(address, bytes.fromhex("b82a000000c3"), 6)
    world.syscall("pkey_mprotect", address, 4096, 5, -1)
    if ctypes.CFUNCTYPE(ctypes.c_int)(address)() == 42:
        world.got("machine code ran")


TECHNIQUE = Technique(
    source="pkey_mprotect(2): forgotten beside mprotect in many filters",
    event=("memory.exec",),
    by="kernel",
    syscall="pkey_mprotect",
    stops=("seccomp",),
    control=Bare(),
)
