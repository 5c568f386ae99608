"""Open the secret with openat2, whose flags a filter cannot read."""

import os
import struct

from tests.escape.technique import Bare, Technique


def attack(world):
    for resolve in (0, 0x01, 0x10):
        how = struct.pack("=QQQ", 0, 0, resolve)
        result, _ = world.attempt("openat2", -100, os.fsencode(world.secret), how, len(how))
        if result >= 0:
            world.take(result)


TECHNIQUE = Technique(
    source="man 2 openat2; seccomp(2): pointers are not seen",
    no_event="the filter answers ENOSYS itself, so that libc falls back to openat",
    stops=("seccomp", "root view", "landlock"),
    control=Bare(),
)
