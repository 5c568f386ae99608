"""Make a memfd that promises not to be executable."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("memfd_create", b"escape", 8)


TECHNIQUE = Technique(
    source="memfd_create(2) MFD_NOEXEC_SEAL: mmap maps it executable all the same",
    event=("import.native",),
    by="kernel",
    syscall="memfd_create",
    stops=("seccomp",),
    control=Bare(),
)
