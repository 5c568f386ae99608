"""Write a kernel setting by the ancient sysctl call."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("_sysctl", None)


TECHNIQUE = Technique(
    source="_sysctl(2)",
    event=("kernel.syscall",),
    by="kernel",
    syscall="_sysctl",
    stops=("seccomp",),
    control=Bare(answer="ENOSYS"),
)
