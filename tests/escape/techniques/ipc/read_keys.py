"""Read the user's keyrings."""

import ctypes

from tests.escape.technique import Bare, Technique


def attack(world):
    for operation, arguments in (
        (6, (-4, 0, 0)),
        (0, (-4, 0, 0)),
        (11, (-4, ctypes.create_string_buffer(64), 64)),
        (1, (b"escape-session", 0, 0)),
    ):
        result, _ = world.attempt("keyctl", operation, *arguments)
        if result >= 0:
            world.got(f"keyctl {operation}")


TECHNIQUE = Technique(
    source="keyctl(2); Docker issue 10939",
    event=("kernel.keys",),
    by="kernel",
    syscall="keyctl",
    stops=("seccomp", "namespaces"),
    control=Bare(),
)
