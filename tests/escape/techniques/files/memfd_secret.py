"""Hide memory from the supervisor with memfd_secret."""

from tests.escape.technique import Alone, Technique


def attack(world):
    world.floor("memfd_secret", 0)


TECHNIQUE = Technique(
    source="memfd_secret(2)",
    event=("memory.exec",),
    by="kernel",
    syscall="memfd_secret",
    stops=("seccomp",),
    control=Alone("secretmem is off unless the kernel is booted with secretmem.enable"),
)
