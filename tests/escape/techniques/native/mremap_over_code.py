"""Move written memory over executable memory by mremap, hoping that it keeps its place's rights."""

import ctypes

from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    _start, _end, path = [
        found for found in world.executable_ranges() if b"_ctypes" in found[2] or b"libz" in found[2]
    ][0]
    descriptor = world.open_raw(path)
    code = world.syscall("mmap", 0, 4096, 5, 2, descriptor, 0)
    mine = world.syscall("mmap", 0, 4096, 3, 0x22, -1, 0)
    ctypes.memmove(mine, bytes.fromhex("b82a000000c3"), 6)
    world.libc.mremap.restype = ctypes.c_long
    moved = world.libc.mremap(ctypes.c_long(mine), ctypes.c_long(4096), ctypes.c_long(4096), 3, ctypes.c_long(code))
    print("jumping to", moved == code, flush=True)
    if ctypes.CFUNCTYPE(ctypes.c_int)(code)() == 42:
        world.got("machine code ran")


TECHNIQUE = Technique(
    source="mremap(2) MREMAP_FIXED keeps the moved memory's rights",
    no_event="nothing is refused: the moved memory is not executable, and the cell dies of the jump",
    stops=("seccomp",),
    must_end=("SandboxDied",),
    control=Alone("it works on no kernel: the check is that it does not"),
    thread=not_run("the process dies, and with it the supervisor: memory is shared"),
)
