"""Write a thread-local segment."""

import ctypes

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("set_thread_area", ctypes.create_string_buffer(16))


TECHNIQUE = Technique(
    source="set_thread_area(2)",
    event=("kernel.capability",),
    by="kernel",
    syscall="set_thread_area",
    stops=("seccomp",),
    control=Bare(answer="ENOSYS|EINVAL"),
)
