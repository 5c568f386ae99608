"""Make the C library's own code writable, patch it, make it executable again."""

from tests.escape.technique import Bare, Technique


def attack(world):
    start, _end, _path = [found for found in world.executable_ranges() if b"libc.so" in found[2]][0]
    page = start & ~4095
    world.syscall("mprotect", page, 4096, 7)
    world.got("code is writable")


TECHNIQUE = Technique(
    source="mprotect(2) on a private mapping of a library",
    event=("memory.exec",),
    by="kernel",
    syscall="mprotect",
    stops=("seccomp",),
    control=Bare(),
)
