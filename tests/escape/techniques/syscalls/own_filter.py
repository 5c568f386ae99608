"""Load a filter of one's own in front, which would answer before the host's."""

import ctypes
import struct

from tests.escape.technique import Bare, Technique


def attack(world):
    program = struct.pack("=HBBI", 6, 0, 0, 0x7FFF0000)
    buffer = ctypes.create_string_buffer(program)
    head = struct.pack("=H6xQ", 1, ctypes.addressof(buffer))
    world.attempt("prctl", 22, 2, head, 0, 0)
    world.floor("seccomp", 1, 0, head)


TECHNIQUE = Technique(
    source="seccomp(2): a later filter with a listener of its own takes notifications away",
    event=("kernel.syscall",),
    by="kernel",
    syscall="seccomp",
    stops=("seccomp",),
    control=Bare(root=True),
)
