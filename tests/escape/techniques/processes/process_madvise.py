"""Throw another process's memory out by process_madvise."""

import ctypes
import struct

from tests.escape.technique import Alone, Technique


def attack(world):
    holder, _ = world.attempt("pidfd_open", world.victim, 0)
    vector = ctypes.create_string_buffer(struct.pack("=QQ", 0x400000, 4096))
    world.floor("process_madvise", holder if holder >= 0 else 1, vector, 1, 20, 0)


TECHNIQUE = Technique(
    source="process_madvise(2)",
    event=("process.trace",),
    by="kernel",
    syscall="process_madvise",
    stops=("seccomp", "namespaces"),
    control=Alone("its success depends on the victim's layout; the call is refused before that"),
)
