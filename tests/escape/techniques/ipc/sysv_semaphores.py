"""Make System V semaphores."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("semget", 0x45534350, 1, 0o1777)


TECHNIQUE = Technique(
    source="svipc(7)",
    event=("ipc.sysv",),
    by="kernel",
    syscall="semget",
    stops=("seccomp", "namespaces"),
    control=Bare(),
)
