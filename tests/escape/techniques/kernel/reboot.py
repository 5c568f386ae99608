"""Reboot the machine."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("reboot", 0, 0, 0, None)


TECHNIQUE = Technique(
    source="reboot(2)",
    event=("kernel.capability",),
    by="kernel",
    syscall="reboot",
    stops=("seccomp", "credentials"),
    control=Bare(root=True, answer="EINVAL"),
)
