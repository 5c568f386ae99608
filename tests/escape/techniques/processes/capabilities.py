"""Get capabilities back: capset."""

import struct

from tests.escape.technique import Alone, Technique


def attack(world):
    head = struct.pack("=Ii", 0x20080522, 0)
    full = struct.pack("=6I", *[0xFFFFFFFF] * 2, 0, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    world.floor("capset", head, full)


TECHNIQUE = Technique(
    source="capabilities(7)",
    event=("kernel.capability",),
    by="kernel",
    syscall="capset",
    stops=("notification", "credentials"),
    control=Alone("no process gains capabilities by asking; the judge compares the cell's sets before and after"),
)
