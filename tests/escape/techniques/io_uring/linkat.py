"""Link the secret into a writable directory by io_uring."""

from tests.escape.grants import writable_outbox
from tests.escape.technique import Bare, Technique


def attack(world):
    target = world.outbox + "/ring"
    world.ring(39, -100, world.text(world.secret), 0xFFFFFF9C, world.text(target))
    world.take(world.open_raw(target))


TECHNIQUE = Technique(
    source="io_uring(7) IORING_OP_LINKAT",
    policy=writable_outbox,
    event=("kernel.io_uring",),
    by="kernel",
    syscall="io_uring_setup",
    stops=("seccomp", "root view", "landlock"),
    control=Bare(),
)
