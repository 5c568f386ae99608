"""Remove another's POSIX message queue."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("mq_unlink", b"escape-queue-absent")


TECHNIQUE = Technique(
    source="mq_overview(7)",
    event=("ipc.posix",),
    by="kernel",
    syscall="mq_unlink",
    stops=("seccomp", "namespaces"),
    control=Bare(answer="ENOENT"),
)
