"""Mount an overlay over the granted directory, and write to its lower layer."""

import os

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor(
        "mount",
        b"overlay",
        os.fsencode(world.outbox),
        b"overlay",
        0,
        f"lowerdir={world.inbox}:{world.outside}".encode(),
    )


TECHNIQUE = Technique(
    source="landlock/fs_test.c (layout2_overlay); CVE-2021-3493, CVE-2023-0386",
    event=("kernel.mount",),
    by="kernel",
    syscall="mount",
    stops=("seccomp", "credentials"),
    control=Bare(root=True),
)
