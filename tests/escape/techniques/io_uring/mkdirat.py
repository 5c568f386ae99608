"""Make a directory outside by io_uring."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.ring(37, -100, world.text(world.outside + "/ring"), 0o755)


TECHNIQUE = Technique(
    source="io_uring(7) IORING_OP_MKDIRAT",
    event=("kernel.io_uring",),
    by="kernel",
    syscall="io_uring_setup",
    stops=("seccomp", "root view", "landlock"),
    control=Bare(),
)
