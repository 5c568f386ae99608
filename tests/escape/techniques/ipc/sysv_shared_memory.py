"""Make System V shared memory that outlives the sandbox."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("shmget", 0x45534350, 4096, 0o1777)


TECHNIQUE = Technique(
    source="svipc(7); Landlock allows it (facts)",
    event=("ipc.sysv",),
    by="kernel",
    syscall="shmget",
    stops=("seccomp", "namespaces"),
    control=Bare(),
)
