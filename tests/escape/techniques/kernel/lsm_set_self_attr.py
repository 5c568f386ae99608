"""Set one's own security attributes (6.8)."""

import ctypes

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("lsm_set_self_attr", 100, ctypes.create_string_buffer(64), 64, 0)


TECHNIQUE = Technique(
    source="lsm_set_self_attr(2): newer than most filters",
    event=("kernel.syscall",),
    by="kernel",
    syscall="lsm_set_self_attr",
    stops=("seccomp",),
    control=Bare(answer="EOPNOTSUPP|EINVAL|ENOTSUP"),
)
