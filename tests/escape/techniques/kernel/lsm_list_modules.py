"""List the kernel's security modules (6.8)."""

import ctypes
import struct

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor(
        "lsm_list_modules", ctypes.create_string_buffer(256), ctypes.create_string_buffer(struct.pack("=I", 256)), 0
    )


TECHNIQUE = Technique(
    source="lsm_list_modules(2): newer than most filters",
    event=("kernel.syscall",),
    by="kernel",
    syscall="lsm_list_modules",
    stops=("seccomp",),
    control=Bare(),
)
