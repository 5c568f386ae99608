"""Read the kernel's log."""

import ctypes

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("syslog", 3, ctypes.create_string_buffer(4096), 4096)


TECHNIQUE = Technique(
    source="syslog(2): kernel addresses in the log",
    event=("kernel.capability",),
    by="kernel",
    syscall="syslog",
    stops=("seccomp", "credentials"),
    control=Bare(root=True),
)
