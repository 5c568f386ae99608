"""Read a thread-local segment."""

import ctypes

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("get_thread_area", ctypes.create_string_buffer(16))


TECHNIQUE = Technique(
    source="get_thread_area(2)",
    event=("process.trace",),
    by="kernel",
    syscall="get_thread_area",
    stops=("seccomp",),
    control=Bare(answer="ENOSYS|EINVAL"),
)
