"""Enter an io_uring that somebody else set up."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("io_uring_enter", 1, 1, 0, 0, None, 0)


TECHNIQUE = Technique(
    source="io_uring_enter(2)",
    event=("kernel.io_uring",),
    by="kernel",
    syscall="io_uring_enter",
    stops=("seccomp",),
    control=Bare(answer="EOPNOTSUPP|EBADF|ENOTSUP"),
)
