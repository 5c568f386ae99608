"""Load a library that is not readable."""

import ctypes

from tests.escape.technique import Granted, Technique


def attack(world):
    ctypes.CDLL(world.library)


TECHNIQUE = Technique(
    source="dlopen(3)",
    event=("import.native", "fs.read"),
    by="broker",
    stops=("broker", "root view", "landlock"),
    control=Granted(lambda p, t: p.allow_native(t.library)),
)
