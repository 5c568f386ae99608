"""Change a read-only granted file through a shared mapping."""

import ctypes

from tests.escape.technique import Alone, Technique


def attack(world):
    descriptor = world.open_raw(world.granted)
    address = world.syscall("mmap", 0, 4096, 1, 1, descriptor, 0)
    world.syscall("mprotect", address, 4096, 3)
    ctypes.memmove(address, b"owned", 5)


TECHNIQUE = Technique(
    source="mprotect(2): a shared mapping of a read-only descriptor",
    no_event="the kernel refuses: the descriptor is open for reading only (EACCES)",
    stops=("file permissions", "root view"),
    control=Alone("it fails on any kernel; the check is that the file does not change"),
)
