"""Delete a file outside by io_uring."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.ring(36, -100, world.text(world.canary))


TECHNIQUE = Technique(
    source="io_uring(7) IORING_OP_UNLINKAT",
    event=("kernel.io_uring",),
    by="kernel",
    syscall="io_uring_setup",
    stops=("seccomp", "root view", "landlock"),
    control=Bare(),
)
