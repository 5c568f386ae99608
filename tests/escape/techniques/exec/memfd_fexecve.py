"""Run a program from memory: memfd_create and fexecve."""

import ctypes
import os

from tests.escape.grants import other_program
from tests.escape.technique import Bare, Technique


def attack(world):
    with open("/proc/self/exe", "rb") if os.path.exists("/proc/self/exe") else open(world.granted, "rb") as file:
        data = file.read()
    descriptor = world.syscall("memfd_create", b"escape", 0)
    os.write(descriptor, b"#!" + os.fsencode(world.tool) + b" ESCAPED: memfd\n")
    argv = (ctypes.c_char_p * 2)(b"x", None)
    world.syscall("execveat", descriptor, b"", argv, None, 0x1000)


TECHNIQUE = Technique(
    source="fexecve(3); Landlock allows memfd + fexecve (facts)",
    policy=other_program,
    event=("import.native",),
    by="kernel",
    syscall="memfd_create",
    stops=("seccomp",),
    control=Bare(),
)
