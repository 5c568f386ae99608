"""Change quotas."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("quotactl", 0x80000300, b"/dev/escape-none", 0, None)


TECHNIQUE = Technique(
    source="quotactl(2)",
    event=("kernel.mount",),
    by="kernel",
    syscall="quotactl",
    stops=("seccomp", "credentials"),
    control=Bare(root=True, answer="ENOENT|ENOTBLK|ENODEV|ENOSYS|EINVAL"),
)
