"""Watch the whole file system with fanotify."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("fanotify_init", 0x200, 0)


TECHNIQUE = Technique(
    source="fanotify_init(2)",
    event=("kernel.mount",),
    by="kernel",
    syscall="fanotify_init",
    stops=("seccomp",),
    control=Bare(),
)
