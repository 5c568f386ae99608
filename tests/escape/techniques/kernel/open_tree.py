"""Take a detached copy of a mount."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("open_tree", -100, b"/", 1)


TECHNIQUE = Technique(
    source="open_tree(2); Landlock allows it (facts); CVE-2021-41133",
    event=("kernel.mount",),
    by="kernel",
    syscall="open_tree",
    stops=("seccomp",),
    control=Bare(root=True),
)
