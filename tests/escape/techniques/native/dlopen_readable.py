"""Load a library that may be read, but not run."""

import ctypes
import os

from tests.escape.grants import native_directory
from tests.escape.technique import NO_ROOT_VIEW, Granted, Technique, escapes


def attack(world):
    handle = world.libc.dlopen
    handle.restype = ctypes.c_void_p
    if handle(os.fsencode(world.library), 2):
        world.got("the library is loaded")


TECHNIQUE = Technique(
    source="dlopen(3); Landlock does not refuse mapping a readable file executable",
    policy=native_directory,
    event=("import.native",),
    stops=("root view",),
    control=Granted(lambda p, t: p.allow_native(t.library)),
    thread=escapes(NO_ROOT_VIEW),
)
