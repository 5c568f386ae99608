"""Read another process's memory: its environment holds the secret."""

import ctypes
import struct

from tests.escape.technique import Bare, Technique


def attack(world):
    buffer = ctypes.create_string_buffer(4096)
    with_stack = world.stack if hasattr(world, "stack") else 0
    local = ctypes.create_string_buffer(struct.pack("=QQ", ctypes.addressof(buffer), 4096))
    remote = ctypes.create_string_buffer(struct.pack("=QQ", with_stack or 0x400000, 4096))
    world.floor("process_vm_readv", world.victim, local, 1, remote, 1, 0)


TECHNIQUE = Technique(
    source="process_vm_readv(2); landlock/ptrace_test.c",
    event=("process.trace",),
    by="kernel",
    syscall="process_vm_readv",
    stops=("seccomp", "namespaces", "landlock"),
    control=Bare(answer="EFAULT"),
)
