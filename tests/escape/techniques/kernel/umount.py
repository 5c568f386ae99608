"""Take away what covers a denied place."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("umount2", b"/dev", 2)


TECHNIQUE = Technique(
    source="umount2(2); CVE-2014-4014 class",
    event=("kernel.mount",),
    by="kernel",
    syscall="umount2",
    stops=("seccomp", "credentials"),
    control=Bare(root=True),
)
