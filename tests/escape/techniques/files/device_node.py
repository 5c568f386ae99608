"""Make a device node of the kernel's memory in a granted directory."""

import os

from tests.escape.grants import writable_outbox
from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("mknodat", -100, os.fsencode(world.outbox + "/mem"), 0o20666, 0x101)


TECHNIQUE = Technique(
    source="man 2 mknod; container escapes by mknod",
    policy=writable_outbox,
    event=("fs.create",),
    by="kernel",
    syscall="mknodat",
    stops=("seccomp", "credentials"),
    control=Bare(root=True),
)
