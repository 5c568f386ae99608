"""Open a performance counter on oneself."""

import ctypes
import struct

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor(
        "perf_event_open",
        ctypes.create_string_buffer(struct.pack("=IIQQQQQ", 1, 128, 0, 0, 0, 0, 0xE0).ljust(128, b"\0")),
        0,
        -1,
        -1,
        0,
    )


TECHNIQUE = Technique(
    source="perf_event_open(2); CVE-2013-2094",
    event=("kernel.perf",),
    by="kernel",
    syscall="perf_event_open",
    stops=("seccomp",),
    control=Bare(root=True),
)
