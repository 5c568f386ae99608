"""Write another process's memory."""

import ctypes
import struct

from tests.escape.technique import Bare, Technique


def attack(world):
    local = ctypes.create_string_buffer(struct.pack("=QQ", 0, 0))
    world.floor("process_vm_writev", world.victim, local, 1, local, 1, 0)


TECHNIQUE = Technique(
    source="process_vm_writev(2)",
    event=("process.trace",),
    by="kernel",
    syscall="process_vm_writev",
    stops=("seccomp", "namespaces", "landlock"),
    control=Bare(),
)
