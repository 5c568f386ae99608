"""Map /dev/zero executable, duplicate the mapping by mremap, and write through the duplicate."""

import ctypes

from tests.escape.technique import NO_ROOT_VIEW, Bare, Technique, escapes


def attack(world):
    descriptor = world.open_raw("/dev/zero", 2)
    for flags in (1, 1 | 0x80000):
        address, error = world.attempt("mmap", 0, 4096, 5, flags, descriptor, 0)
        if error:
            continue
        world.libc.mremap.restype = ctypes.c_long
        twin = world.libc.mremap(ctypes.c_long(address), ctypes.c_long(0), ctypes.c_long(4096), 1)
        world.syscall("mprotect", twin, 4096, 3)
        ctypes.memmove(twin, bytes.fromhex("b82a000000c3"), 6)
        if ctypes.CFUNCTYPE(ctypes.c_int)(address)() == 42:
            world.got("machine code ran")


TECHNIQUE = Technique(
    source="mremap(2) with old_size 0 duplicates a shared mapping; W^X by filters sees one call at a time",
    event=("import.native",),
    stops=("root view",),
    control=Bare(),
    thread=escapes(NO_ROOT_VIEW),
)
