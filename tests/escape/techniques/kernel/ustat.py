"""Look at a device by the ancient ustat call."""

import ctypes

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("ustat", 0, ctypes.create_string_buffer(64))


TECHNIQUE = Technique(
    source="ustat(2)",
    event=("kernel.mount",),
    by="kernel",
    syscall="ustat",
    stops=("seccomp",),
    control=Bare(answer="EINVAL|ENOSYS"),
)
