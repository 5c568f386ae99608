"""List the kernel's file systems by the ancient sysfs call."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("sysfs", 3)


TECHNIQUE = Technique(
    source="sysfs(2)",
    event=("kernel.mount",),
    by="kernel",
    syscall="sysfs",
    stops=("seccomp",),
    control=Bare(answer="OK|ENOSYS"),
)
