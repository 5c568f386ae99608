"""Lock memory so that the machine cannot swap."""

import ctypes

from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    address = world.syscall("mmap", 0, 64 << 20, 3, 0x22, -1, 0)
    if world.libc.mlock(ctypes.c_void_p(address), ctypes.c_size_t(64 << 20)) == 0:
        world.got("64 MiB are locked")


TECHNIQUE = Technique(
    source="mlock(2), RLIMIT_MEMLOCK",
    no_event="the kernel says ENOMEM at the limit",
    stops=("limits",),
    ends=("MemoryExceeded",),
    control=Alone("the number outside depends on the machine's limits"),
    thread=not_run("the limit is the host's own"),
)
