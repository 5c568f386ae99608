"""Submit asynchronous I/O."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("io_submit", 0, 0, None)


TECHNIQUE = Technique(
    source="io_submit(2)",
    event=("kernel.syscall",),
    by="kernel",
    syscall="io_submit",
    stops=("seccomp",),
    control=Bare(answer="EINVAL"),
)
