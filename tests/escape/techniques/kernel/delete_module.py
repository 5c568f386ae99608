"""Unload a kernel module."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("delete_module", b"escape_none", 0x800)


TECHNIQUE = Technique(
    source="delete_module(2)",
    event=("kernel.module",),
    by="kernel",
    syscall="delete_module",
    stops=("seccomp", "credentials"),
    control=Bare(root=True, answer="ENOENT|ENOSYS"),
)
