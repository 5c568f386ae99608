"""Lend pages to a pipe."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("vmsplice", 1, None, 0, 0)


TECHNIQUE = Technique(
    source="vmsplice(2); CVE-2008-0600",
    event=("kernel.syscall",),
    by="kernel",
    syscall="vmsplice",
    stops=("seccomp",),
    control=Bare(),
)
