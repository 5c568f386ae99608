"""Bind the secret's directory into the granted one."""

import os

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("mount", os.fsencode(os.path.dirname(world.secret)), os.fsencode(world.inbox), None, 4096, None)


TECHNIQUE = Technique(
    source="mount(2) MS_BIND; landlock/fs_test.c (layout1_bind)",
    event=("kernel.mount",),
    by="kernel",
    syscall="mount",
    stops=("seccomp", "credentials"),
    control=Bare(root=True),
)
