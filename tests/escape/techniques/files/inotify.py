"""Watch a directory outside for what others do there."""

import os

from tests.escape.technique import Bare, Technique


def attack(world):
    descriptor = world.syscall("inotify_init1", 0)
    world.floor("inotify_add_watch", descriptor, os.fsencode(world.outside), 0xFFF)


TECHNIQUE = Technique(
    source="Landlock does not handle inotify: kernel documentation, userspace-api/landlock",
    event=("fs.metadata",),
    by="kernel",
    syscall="inotify_init1",
    stops=("seccomp", "root view"),
    control=Bare(),
)
