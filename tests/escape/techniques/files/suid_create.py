"""Leave a set-group-id file behind in a granted directory, by open."""

import os

from tests.escape.grants import writable_outbox
from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("openat", -100, os.fsencode(world.outbox + "/sgid"), os.O_CREAT | os.O_WRONLY, 0o2755)


TECHNIQUE = Technique(
    source="CWE-732",
    policy=writable_outbox,
    event=("fs.create",),
    by="kernel",
    syscall="openat",
    stops=("seccomp",),
    control=Bare(),
)
