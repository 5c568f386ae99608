"""List a directory outside by getdents64."""

import ctypes
import os

from tests.escape.grants import look_outside
from tests.escape.technique import Granted, Technique, silent


def attack(world):
    descriptor = world.open_raw(world.outside, os.O_DIRECTORY)
    buffer = ctypes.create_string_buffer(4096)
    size = world.syscall("getdents64", descriptor, buffer, 4096)
    if b"canary.txt" in buffer.raw[:size]:
        world.got("a listing")


TECHNIQUE = Technique(
    source="getdents(2)",
    event=("fs.read",),
    stops=("root view", "landlock"),
    control=Granted(look_outside),
    thread=silent("the listener watches no files of a sandbox thread, and Landlock tells only that it refused"),
)
