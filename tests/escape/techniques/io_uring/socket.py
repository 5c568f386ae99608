"""Make a socket by io_uring."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.got(f"descriptor {world.ring(45, 2, 0, 0, 1)}")


TECHNIQUE = Technique(
    source="io_uring(7) IORING_OP_SOCKET",
    event=("kernel.io_uring",),
    by="kernel",
    syscall="io_uring_setup",
    stops=("seccomp", "namespaces"),
    control=Bare(),
)
