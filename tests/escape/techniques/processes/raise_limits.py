"""Raise every limit by prlimit."""

import struct

from tests.escape.technique import Alone, Technique, silent


def attack(world):
    for which in range(16):
        result, _ = world.attempt("prlimit64", 0, which, struct.pack("=qq", -1, -1), None)
        if result == 0 and which in (4, 6, 7):
            world.got(f"limit {which}")


TECHNIQUE = Technique(
    source="prlimit(2)",
    event=("limit.cpu",),
    stops=("limits", "credentials"),
    control=Alone("whether a plain process may depends on its own hard limits"),
    thread=silent("the filter of a sandbox thread lets the kernel answer"),
)
