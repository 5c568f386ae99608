"""Hold a mount by open_tree without copying it."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("open_tree", -100, b"/", 0)


TECHNIQUE = Technique(
    source="open_tree(2) without OPEN_TREE_CLONE is open(O_PATH)",
    event=("kernel.mount",),
    by="kernel",
    syscall="open_tree",
    stops=("seccomp",),
    control=Bare(),
)
