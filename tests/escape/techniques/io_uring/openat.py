"""Open the secret by io_uring."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.take(world.ring(18, -100, world.text(world.secret)))


TECHNIQUE = Technique(
    source="io_uring(7) IORING_OP_OPENAT: no system call, no filter",
    event=("kernel.io_uring",),
    by="kernel",
    syscall="io_uring_setup",
    stops=("seccomp", "root view", "landlock"),
    control=Bare(),
)
