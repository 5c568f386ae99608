"""Make a symbolic link outside by io_uring."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.ring(38, -100, world.text("/"), 0, world.text(world.outside + "/ring"))


TECHNIQUE = Technique(
    source="io_uring(7) IORING_OP_SYMLINKAT",
    event=("kernel.io_uring",),
    by="kernel",
    syscall="io_uring_setup",
    stops=("seccomp", "root view", "landlock"),
    control=Bare(),
)
