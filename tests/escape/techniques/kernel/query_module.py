"""Ask for modules by the ancient query_module."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("query_module", None, 0, None, 0, None)


TECHNIQUE = Technique(
    source="query_module(2)",
    event=("kernel.module",),
    by="kernel",
    syscall="query_module",
    stops=("seccomp",),
    control=Bare(answer="ENOSYS"),
)
