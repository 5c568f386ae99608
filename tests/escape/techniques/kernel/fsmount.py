"""Make a mount of a configured file system."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("fsmount", 1, 0, 0)


TECHNIQUE = Technique(
    source="fsmount(2)",
    event=("kernel.mount",),
    by="kernel",
    syscall="fsmount",
    stops=("seccomp",),
    control=Bare(root=True, answer="EINVAL|EBADF"),
)
