"""Leave a set-user-id file behind in a granted directory, by chmod."""

import os

from tests.escape.grants import writable_outbox
from tests.escape.technique import Bare, Technique


def attack(world):
    path = world.outbox + "/suid"
    open(path, "w").close()
    world.floor("fchmodat", -100, os.fsencode(path), 0o4755)


TECHNIQUE = Technique(
    source="CWE-732: a host directory keeps what a guest made there",
    policy=writable_outbox,
    event=("fs.metadata",),
    by="kernel",
    syscall="fchmodat",
    stops=("seccomp",),
    control=Bare(),
)
