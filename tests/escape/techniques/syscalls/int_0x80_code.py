"""Make a 32-bit call by int 0x80 from memory of one's own."""

import ctypes
import os

from tests.escape.technique import Bare, Technique


def attack(world):
    path = world.syscall("mmap", 0, 4096, 3, 0x22 | 0x40, -1, 0)
    ctypes.memmove(path, os.fsencode(world.outside + "/int80") + b"\0", 200 - 100)
    code = bytes.fromhex("53 89fb b8 27000000 b9 ed010000 cd80 5b c3".replace(" ", ""))
    if world.code(code, path) == 0:
        world.got("mkdir by int 0x80")


TECHNIQUE = Technique(
    source="seccomp(2): check the architecture first; seccomp_bpf.c selftests",
    event=("memory.exec",),
    by="kernel",
    syscall="mmap",
    stops=("seccomp",),
    control=Bare(),
)
