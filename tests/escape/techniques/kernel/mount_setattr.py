"""Make the whole view writable by mount_setattr."""

import ctypes
import struct

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("mount_setattr", -100, b"/", 0x8000, ctypes.create_string_buffer(struct.pack("=QQQQ", 0, 1, 0, 0)), 32)


TECHNIQUE = Technique(
    source="mount_setattr(2)",
    event=("kernel.mount",),
    by="kernel",
    syscall="mount_setattr",
    stops=("seccomp",),
    control=Bare(root=True),
)
