"""Load another kernel."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("kexec_load", 0, 0, None, 0xFFFF0000)


TECHNIQUE = Technique(
    source="kexec_load(2)",
    event=("kernel.module",),
    by="kernel",
    syscall="kexec_load",
    stops=("seccomp", "credentials"),
    control=Bare(root=True, answer="EINVAL|ENOSYS"),
)
