"""Try numbers that no kernel has given out."""

from tests.escape.technique import Alone, Technique


def attack(world):
    for number in (470, 499, 1000, 1023, 0x7FFFFFFF):
        result, _ = world.attempt(number, 0, 0, 0)
        if result >= 0:
            world.got(f"call {number}")


TECHNIQUE = Technique(
    source="filters must refuse by default: Chromium and Docker had to add new calls",
    event=("kernel.syscall",),
    by="kernel",
    stops=("seccomp",),
    control=Alone("no kernel knows them yet"),
)
