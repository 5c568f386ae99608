"""Become root of a user namespace."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("unshare", 0x10000000)


TECHNIQUE = Technique(
    source="user_namespaces(7): the door to most kernel exploits since 2013",
    event=("kernel.namespace",),
    by="kernel",
    syscall="unshare",
    stops=("seccomp",),
    control=Bare(),
)
