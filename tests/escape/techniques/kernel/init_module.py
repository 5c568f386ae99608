"""Load a kernel module from memory."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("init_module", b"x", 1, b"")


TECHNIQUE = Technique(
    source="init_module(2)",
    event=("kernel.module",),
    by="kernel",
    syscall="init_module",
    stops=("seccomp", "credentials"),
    control=Bare(root=True, answer="ENOEXEC|EFAULT|ENOSYS|EINVAL"),
)
