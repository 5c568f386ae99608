"""Take a detached copy of a mount with other attributes (6.15)."""

import ctypes

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("open_tree_attr", -100, b"/", 1, ctypes.create_string_buffer(32), 32)


TECHNIQUE = Technique(
    source="open_tree_attr(2): newer than most filters",
    event=("kernel.mount",),
    by="kernel",
    syscall="open_tree_attr",
    stops=("seccomp",),
    control=Bare(root=True),
)
