"""Fill memory by raw mmap, past the interpreter."""

import ctypes

from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    while True:
        address = world.syscall("mmap", 0, 8 << 20, 3, 0x8022, -1, 0)
        ctypes.memset(address, 1, 8 << 20)


TECHNIQUE = Technique(
    source="mmap(2) MAP_POPULATE",
    policy=lambda p, t: p.with_limits(memory="96MiB"),
    event=("limit.memory",),
    stops=("limits",),
    must_end=("MemoryExceeded",),
    control=Alone("tests/host/test_limits_sandbox.py: under the limit it runs"),
    thread=not_run("a limit on a thread's memory would be one on the host's"),
)
