"""Add a rule to the ruleset that the supervisor made."""

import ctypes

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("landlock_add_rule", 3, 1, ctypes.create_string_buffer(16), 0)


TECHNIQUE = Technique(
    source="landlock_add_rule(2): a leaked ruleset",
    event=("kernel.syscall",),
    by="kernel",
    syscall="landlock_add_rule",
    stops=("seccomp",),
    control=Bare(answer="EBADF|EBADFD|EINVAL"),
)
