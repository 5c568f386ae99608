"""Attach System V shared memory executable."""

from tests.escape.technique import Bare, Technique


def attack(world):
    key = world.syscall("shmget", 0, 4096, 0o1777)
    try:
        world.floor("shmat", key, 0, 0o100000)
    finally:
        world.libc.shmctl(key, 0, None)


TECHNIQUE = Technique(
    source="shmat(2) SHM_EXEC: CVE-2013-7421 class",
    event=("ipc.sysv",),
    by="kernel",
    syscall="shmget",
    stops=("seccomp",),
    control=Bare(),
)
