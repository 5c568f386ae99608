"""Set the clock by clock_settime."""

import struct

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("clock_settime", 99, struct.pack("=qq", 0, 0))


TECHNIQUE = Technique(
    source="clock_settime(2)",
    event=("kernel.capability",),
    by="kernel",
    syscall="clock_settime",
    stops=("seccomp", "credentials"),
    control=Bare(answer="EINVAL"),
)
