"""Make the read-only view writable."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("mount", None, b"/", None, 32 | 4096, None)


TECHNIQUE = Technique(
    source="mount(2) MS_REMOUNT",
    event=("kernel.mount",),
    by="kernel",
    syscall="mount",
    stops=("seccomp", "credentials"),
    control=Bare(root=True),
)
