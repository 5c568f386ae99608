"""Ask the loader for an executable stack."""

import ctypes

from tests.escape.technique import Bare, Technique


def attack(world):
    marker = ctypes.c_int(0)
    page = ctypes.addressof(marker) & ~4095
    world.syscall("mprotect", page, 4096, 7 | 0x01000000)
    world.got("an executable stack")


TECHNIQUE = Technique(
    source="execstack(8); mprotect(2) PROT_GROWSDOWN",
    event=("memory.exec",),
    by="kernel",
    syscall="mprotect",
    stops=("seccomp",),
    control=Bare(answer="EINVAL"),
)
