"""Get access to all I/O ports."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("iopl", 4)


TECHNIQUE = Technique(
    source="iopl(2)",
    event=("kernel.capability",),
    by="kernel",
    syscall="iopl",
    stops=("seccomp", "credentials"),
    control=Bare(answer="EINVAL|ENOSYS"),
)
