"""Configure a new file system."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("fsopen", b"tmpfs", 0)


TECHNIQUE = Technique(
    source="fsopen(2); CVE-2022-0185",
    event=("kernel.mount",),
    by="kernel",
    syscall="fsopen",
    stops=("seccomp",),
    control=Bare(root=True),
)
