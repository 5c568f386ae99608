"""Rename the domain."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("setdomainname", b"escape-host", 11)


TECHNIQUE = Technique(
    source="setdomainname(2)",
    event=("kernel.namespace",),
    by="kernel",
    syscall="setdomainname",
    stops=("seccomp", "namespaces"),
    control=Bare(root=True),
)
