"""Load a kernel module from a file."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("finit_module", 1, b"", 0)


TECHNIQUE = Technique(
    source="finit_module(2)",
    event=("kernel.module",),
    by="kernel",
    syscall="finit_module",
    stops=("seccomp", "credentials"),
    control=Bare(root=True, answer="ENOEXEC|EINVAL|EBADF|ENOSYS|ESPIPE|ETXTBSY"),
)
