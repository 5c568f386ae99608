"""Get access to some I/O ports."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("ioperm", 0x80, 0, 1)


TECHNIQUE = Technique(
    source="ioperm(2)",
    event=("kernel.capability",),
    by="kernel",
    syscall="ioperm",
    stops=("seccomp", "credentials"),
    control=Bare(answer="EINVAL|ENOSYS"),
)
