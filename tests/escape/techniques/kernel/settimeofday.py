"""Set the clock."""

from tests.escape.technique import Alone, Technique


def attack(world):
    world.floor("settimeofday", None, None)


TECHNIQUE = Technique(
    source="settimeofday(2)",
    event=("kernel.capability",),
    by="kernel",
    syscall="settimeofday",
    stops=("seccomp", "credentials"),
    control=Alone("without arguments it sets nothing and is allowed to anybody; with them it would set the clock"),
)
