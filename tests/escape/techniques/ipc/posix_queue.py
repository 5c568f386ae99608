"""Make a POSIX message queue that outlives the sandbox."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("mq_open", b"escape-queue", 0o100 | 2, 0o600, None)


TECHNIQUE = Technique(
    source="mq_overview(7)",
    event=("ipc.posix",),
    by="kernel",
    syscall="mq_open",
    stops=("seccomp", "namespaces"),
    control=Bare(),
)
