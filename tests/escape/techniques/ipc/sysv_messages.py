"""Make a System V message queue."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("msgget", 0x45534350, 0o1777)


TECHNIQUE = Technique(
    source="svipc(7); CVE-2021-22555 used them",
    event=("ipc.sysv",),
    by="kernel",
    syscall="msgget",
    stops=("seccomp", "namespaces"),
    control=Bare(),
)
