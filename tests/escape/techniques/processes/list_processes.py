"""List the host's processes in /proc."""

import ctypes
import os

from tests.escape.technique import ABSENT, Bare, Technique


def attack(world):
    descriptor = world.open_raw("/proc", os.O_DIRECTORY)
    buffer = ctypes.create_string_buffer(65536)
    size = world.syscall("getdents64", descriptor, buffer, 65536)
    if str(world.victim).encode() in buffer.raw[:size]:
        world.got("the list of processes")


TECHNIQUE = Technique(source="proc(5)", no_event=ABSENT, stops=("root view", "landlock"), control=Bare())
