"""Open the root of the file system by a forged handle (shocker)."""

import ctypes
import os
import struct

from tests.escape.technique import Bare, Technique


def attack(world):
    handle = ctypes.create_string_buffer(struct.pack("=Ii", 8, 1) + struct.pack("=Q", 2))
    directory = os.open("/", os.O_RDONLY) if os.path.isdir("/") else -100
    world.floor("open_by_handle_at", directory, handle, 0)


TECHNIQUE = Technique(
    source="shocker.c (Docker before 1.0); open_by_handle_at(2)",
    event=("kernel.mount", "fs.read"),
    by="either",
    stops=("seccomp", "credentials"),
    control=Bare(root=True),
)
