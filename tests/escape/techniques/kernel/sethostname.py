"""Rename the machine."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("sethostname", b"escape-host", 11)


TECHNIQUE = Technique(
    source="sethostname(2)",
    event=("kernel.namespace",),
    by="kernel",
    syscall="sethostname",
    stops=("seccomp", "namespaces"),
    control=Bare(root=True),
)
