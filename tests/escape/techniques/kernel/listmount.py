"""List mounts by number (6.8)."""

import ctypes
import struct

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor(
        "listmount",
        ctypes.create_string_buffer(struct.pack("=IIQQQ", 32, 0, 0xFFFFFFFFFFFFFFFF, 0, 0)),
        ctypes.create_string_buffer(512),
        64,
        0,
    )


TECHNIQUE = Technique(
    source="listmount(2): newer than most filters",
    event=("kernel.mount",),
    by="kernel",
    syscall="listmount",
    stops=("seccomp",),
    control=Bare(root=True),
)
