"""Hide one's memory from the supervisor: PR_SET_DUMPABLE."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("prctl", 4, 0 if world.libc.prctl(3) else 1, 0, 0, 0)


TECHNIQUE = Technique(
    source="prctl(2) PR_SET_DUMPABLE: the listener reads addresses from the cell",
    event=("kernel.syscall",),
    by="kernel",
    syscall="prctl",
    stops=("seccomp",),
    control=Bare(),
)
