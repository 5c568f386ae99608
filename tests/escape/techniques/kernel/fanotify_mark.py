"""Mark a file system for watching."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("fanotify_mark", 1, 1, 1, 0, -100, b"/")


TECHNIQUE = Technique(
    source="fanotify_mark(2)",
    event=("kernel.mount",),
    by="kernel",
    syscall="fanotify_mark",
    stops=("seccomp",),
    control=Bare(answer="EINVAL|EBADF"),
)
