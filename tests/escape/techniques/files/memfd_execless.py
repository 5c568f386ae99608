"""Make a file that has no path, where no path rule reaches: memfd_create."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("memfd_create", b"escape", 0)


TECHNIQUE = Technique(
    source="memfd_create(2); used by fileless malware",
    event=("import.native",),
    by="kernel",
    syscall="memfd_create",
    stops=("seccomp",),
    control=Bare(),
)
