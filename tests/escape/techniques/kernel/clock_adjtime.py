"""Skew the clock."""

import ctypes

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("clock_adjtime", 99, ctypes.create_string_buffer(256))


TECHNIQUE = Technique(
    source="clock_adjtime(2)",
    event=("kernel.capability",),
    by="kernel",
    syscall="clock_adjtime",
    stops=("seccomp", "credentials"),
    control=Bare(answer="EINVAL"),
)
