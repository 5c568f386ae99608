"""Skew the clock by adjtimex."""

import ctypes

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("adjtimex", ctypes.create_string_buffer(256))


TECHNIQUE = Technique(
    source="adjtimex(2)",
    event=("kernel.capability",),
    by="kernel",
    syscall="adjtimex",
    stops=("seccomp", "credentials"),
    control=Bare(),
)
