"""Look at mounts by number (6.8)."""

import ctypes
import struct

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor(
        "statmount",
        ctypes.create_string_buffer(struct.pack("=IIQQQ", 32, 0, 1, 2, 0)),
        ctypes.create_string_buffer(512),
        512,
        0,
    )


TECHNIQUE = Technique(
    source="statmount(2): newer than most filters",
    event=("kernel.mount",),
    by="kernel",
    syscall="statmount",
    stops=("seccomp",),
    control=Bare(root=True, answer="ENOENT|EOVERFLOW|EINVAL|OK"),
)
