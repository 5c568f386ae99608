"""Load another kernel from a file."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("kexec_file_load", -1, -1, 0, b"", 0xFFFF)


TECHNIQUE = Technique(
    source="kexec_load(2)",
    event=("kernel.module",),
    by="kernel",
    syscall="kexec_file_load",
    stops=("seccomp", "credentials"),
    control=Bare(root=True, answer="EINVAL|ENOSYS|EBADF"),
)
