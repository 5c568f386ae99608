"""Load a library from /dev/shm."""

import ctypes
import os

from tests.escape.grants import native_directory
from tests.escape.technique import Bare, Technique, silent


def attack(world):
    descriptor = world.open_raw("/dev/shm/escape-library", os.O_CREAT | os.O_RDWR)
    with open(world.library, "rb") as source:
        os.write(descriptor, source.read())
    world.libc.dlopen.restype = ctypes.c_void_p
    if world.libc.dlopen(b"/dev/shm/escape-library", 2):
        world.got("a library from shared memory")


TECHNIQUE = Technique(
    source="shm_overview(7)",
    policy=native_directory,
    event=("fs.create",),
    stops=("root view", "landlock"),
    control=Bare(),
    thread=silent("the listener watches no files of a sandbox thread, and Landlock tells only that it refused"),
)
