"""Stop the kernel in the middle of a copy: userfaultfd."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("userfaultfd", 0x80000)


TECHNIQUE = Technique(
    source="userfaultfd(2); used to win races in most recent kernel exploits",
    event=("kernel.syscall",),
    by="kernel",
    syscall="userfaultfd",
    stops=("seccomp",),
    control=Bare(root=True),
)
