"""Write the local descriptor table."""

import ctypes

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("modify_ldt", 17, ctypes.create_string_buffer(16), 16)


TECHNIQUE = Technique(
    source="modify_ldt(2); CVE-2015-5157",
    event=("kernel.capability",),
    by="kernel",
    syscall="modify_ldt",
    stops=("seccomp",),
    control=Bare(),
)
