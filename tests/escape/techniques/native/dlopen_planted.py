"""Load a library that the guest wrote itself."""

import ctypes
import os

from tests.escape.grants import native_directory, writable_outbox
from tests.escape.technique import NO_ROOT_VIEW, Bare, Technique, escapes


def attack(world):
    planted = world.outbox + "/planted.so"
    with open(world.library, "rb") as source, open(planted, "wb") as target:
        target.write(source.read())
    world.libc.dlopen.restype = ctypes.c_void_p
    if world.libc.dlopen(os.fsencode(planted), 2):
        world.got("a library of its own")


TECHNIQUE = Technique(
    source="CWE-427",
    policy=lambda p, t: native_directory(writable_outbox(p, t), t),
    event=("import.native",),
    stops=("root view",),
    control=Bare(),
    thread=escapes(NO_ROOT_VIEW),
)
