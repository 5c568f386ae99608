"""List the host's processes in /proc."""

import ctypes
import os

from tests.escape.technique import Bare, Technique, silent


def attack(world):
    descriptor = world.open_raw("/proc", os.O_DIRECTORY)
    buffer = ctypes.create_string_buffer(65536)
    size = world.syscall("getdents64", descriptor, buffer, 65536)
    if str(world.victim).encode() in buffer.raw[:size]:
        world.got("the list of processes")


TECHNIQUE = Technique(
    source="proc(5)",
    event=("fs.read",),
    stops=("root view", "landlock"),
    control=Bare(),
    thread=silent("the listener watches no files of a sandbox thread, and Landlock tells only that it refused"),
)
