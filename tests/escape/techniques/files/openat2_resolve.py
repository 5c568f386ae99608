"""Open the secret with openat2, whose flags a filter cannot read."""

import os
import struct

from tests.escape.technique import Bare, Technique, silent


def attack(world):
    for resolve in (0, 0x01, 0x10):
        how = struct.pack("=QQQ", 0, 0, resolve)
        result, _ = world.attempt("openat2", -100, os.fsencode(world.secret), how, len(how))
        if result >= 0:
            world.take(result)


TECHNIQUE = Technique(
    source="man 2 openat2; seccomp(2): pointers are not seen",
    event=("fs.read",),
    stops=("seccomp", "root view", "landlock"),
    control=Bare(),
    thread=silent("the listener watches no files of a sandbox thread, and Landlock tells only that it refused"),
)
