"""Make a userfaultfd for user mode faults only, which needs no rights."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("userfaultfd", 0x80001)


TECHNIQUE = Technique(
    source="userfaultfd(2) UFFD_USER_MODE_ONLY",
    event=("kernel.syscall",),
    by="kernel",
    syscall="userfaultfd",
    stops=("seccomp",),
    control=Bare(),
)
