"""Set a file system's option."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("fsconfig", 1, 0, b"x", None, 0)


TECHNIQUE = Technique(
    source="fsconfig(2); CVE-2022-0185",
    event=("kernel.mount",),
    by="kernel",
    syscall="fsconfig",
    stops=("seccomp",),
    control=Bare(answer="EINVAL|EBADF"),
)
