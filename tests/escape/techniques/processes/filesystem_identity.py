"""Set the identity for files alone, which reports no failure."""

from tests.escape.technique import Bare, Technique


def attack(world):
    for name in ("setfsuid", "setfsgid"):
        world.attempt(name, 0)
        result, _ = world.attempt(name, -1)
        if result == 0:
            world.got(name)


TECHNIQUE = Technique(
    source="setfsuid(2)",
    event=("kernel.capability",),
    by="kernel",
    stops=("seccomp", "credentials"),
    control=Bare(root=True),
)
