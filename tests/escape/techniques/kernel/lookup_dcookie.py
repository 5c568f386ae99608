"""Turn a cookie into a path."""

import ctypes

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("lookup_dcookie", 0, ctypes.create_string_buffer(64), 64)


TECHNIQUE = Technique(
    source="lookup_dcookie(2)",
    event=("kernel.mount",),
    by="kernel",
    syscall="lookup_dcookie",
    stops=("seccomp",),
    control=Bare(root=True, answer="ENOSYS|EINVAL"),
)
