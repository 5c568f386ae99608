"""Change quotas by descriptor."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("quotactl_fd", 1, 0x80000300, 0, None)


TECHNIQUE = Technique(
    source="quotactl(2)",
    event=("kernel.mount",),
    by="kernel",
    syscall="quotactl_fd",
    stops=("seccomp",),
    control=Bare(root=True, answer="ENOSYS|ESRCH|EINVAL|EACCES|EBADF|ENODEV"),
)
