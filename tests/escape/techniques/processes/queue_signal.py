"""Queue a forged signal with rt_sigqueueinfo."""

import struct

from tests.escape.technique import Bare, Technique, silent


def attack(world):
    info = struct.pack("=iii4xii", 15, 0, -1, 1, 0).ljust(128, b"\0")
    world.syscall("rt_sigqueueinfo", world.victim, 15, info)


TECHNIQUE = Technique(
    source="rt_sigqueueinfo(2)",
    event=("process.signal",),
    stops=("namespaces", "landlock"),
    control=Bare(),
    thread=silent("the filter of a sandbox thread lets the kernel answer"),
)
