"""Make a BPF map."""

import ctypes
import struct

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("bpf", 0, ctypes.create_string_buffer(struct.pack("=IIII", 2, 4, 8, 1).ljust(128, b"\0")), 128)


TECHNIQUE = Technique(
    source="bpf(2)", event=("kernel.bpf",), by="kernel", syscall="bpf", stops=("seccomp",), control=Bare(root=True)
)
