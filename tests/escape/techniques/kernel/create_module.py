"""Make a module by the ancient create_module."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("create_module", b"x", 1)


TECHNIQUE = Technique(
    source="create_module(2)",
    event=("kernel.module",),
    by="kernel",
    syscall="create_module",
    stops=("seccomp",),
    control=Bare(answer="ENOSYS"),
)
