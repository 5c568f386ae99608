"""Take execution away from library code, patch it, and ask for execution back."""

import ctypes

from tests.escape.technique import Bare, Technique, not_run


def attack(world):
    start, _end, _path = [
        found
        for found in world.executable_ranges()
        if b"libz" in found[2] or b"libexpat" in found[2] or b"libm" in found[2]
    ][0]
    page = start & ~4095
    world.syscall("mprotect", page, 4096, 3)
    ctypes.memmove(page, ctypes.string_at(page, 16), 16)
    world.syscall("mprotect", page, 4096, 5)
    world.got("patched code is executable")


TECHNIQUE = Technique(
    source="mprotect(2) on a private mapping of a library",
    event=("memory.exec",),
    by="kernel",
    syscall="mprotect",
    stops=("seccomp",),
    control=Bare(),
    thread=not_run("it takes execution away from a library that the host uses"),
)
