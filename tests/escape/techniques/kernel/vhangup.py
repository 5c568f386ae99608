"""Hang up the terminal."""

from tests.escape.technique import Alone, Technique


def attack(world):
    world.floor("vhangup")


TECHNIQUE = Technique(
    source="vhangup(2)",
    event=("kernel.capability",),
    by="kernel",
    syscall="vhangup",
    stops=("seccomp", "credentials"),
    control=Alone("it would hang up the terminal of whoever runs the tests"),
)
