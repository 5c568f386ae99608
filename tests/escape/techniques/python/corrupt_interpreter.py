"""Overwrite the interpreter's own constants: the small integers."""

import ctypes

from tests.escape.technique import Alone, Technique, escapes


def attack(world):
    seven = id(7)
    ctypes.c_uint32.from_address(seven + 24).value = 8
    print("7 is now", 3 + 4)
    ctypes.c_uint32.from_address(seven + 24).value = 7
    ctypes.c_long.from_address(0).value


TECHNIQUE = Technique(
    source="ctypes; Ned Batchelder, Eval really is dangerous",
    no_event="nothing is refused: a guest may ruin its own memory",
    stops=("memory",),
    ends=("SandboxDied",),
    control=Alone("the effect would be on another process's memory, which is not reached"),
    thread=escapes("the process dies, and with it the supervisor"),
)
