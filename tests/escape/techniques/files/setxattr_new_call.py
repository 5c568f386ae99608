"""Write an extended attribute with setxattrat (6.13), younger than most filters."""

import ctypes
import os
import struct

from tests.escape.technique import Bare, Technique


def attack(world):
    value = ctypes.create_string_buffer(b"owned")
    arguments = struct.pack("=QII", ctypes.addressof(value), 5, 0)
    world.syscall("setxattrat", -100, os.fsencode(world.granted), 0, b"user.escape", arguments, len(arguments))


TECHNIQUE = Technique(
    source="man 2 setxattrat; denylists miss new calls",
    event=("fs.metadata",),
    by="kernel",
    syscall="setxattrat",
    stops=("seccomp", "root view"),
    control=Bare(),
)
