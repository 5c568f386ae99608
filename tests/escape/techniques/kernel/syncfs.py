"""Write all of a file system's dirty pages."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("syncfs", 1)


TECHNIQUE = Technique(
    source="syncfs(2)",
    event=("kernel.syscall",),
    by="kernel",
    syscall="syncfs",
    stops=("seccomp",),
    control=Bare(answer="EINVAL|OK|EBADF"),
)
