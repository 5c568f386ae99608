"""Map a granted library private and executable, then make its copy writable and run it."""

import ctypes

from tests.escape.technique import Bare, Technique


def attack(world):
    _start, _end, path = [
        found for found in world.executable_ranges() if b"_ctypes" in found[2] or b"libz" in found[2]
    ][0]
    descriptor = world.open_raw(path)
    address = world.syscall("mmap", 0, 4096, 5, 2, descriptor, 0)
    world.syscall("mprotect", address, 4096, 3)
    ctypes.memmove(address, bytes.fromhex("b82a000000c3"), 6)
    world.syscall("mprotect", address, 4096, 5)
    if ctypes.CFUNCTYPE(ctypes.c_int)(address)() == 42:
        world.got("machine code ran")


TECHNIQUE = Technique(
    source="mprotect(2) on a private mapping of a granted library",
    event=("memory.exec",),
    by="kernel",
    syscall="mprotect",
    stops=("seccomp",),
    control=Bare(),
)
