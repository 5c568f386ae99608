"""Watch and delay everybody's opens."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("fanotify_init", 0x4, 0)


TECHNIQUE = Technique(
    source="fanotify_init(2)",
    event=("kernel.mount",),
    by="kernel",
    syscall="fanotify_init",
    stops=("seccomp",),
    control=Bare(root=True),
)
