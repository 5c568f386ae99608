"""Make a namespace by clone with bits around its flags."""

import os

from tests.escape.grants import fork
from tests.escape.technique import Bare, Technique


def attack(world):
    for flags in (0x10000000 | 17, 0x10000000 | 17 | (1 << 32), 0x7E020000 | 17, 0x3D0F00 | 0x10000000):
        result, _ = world.attempt("clone", flags, 0, 0, 0, 0)
        if result == 0:
            os._exit(0)
        if result > 0:
            world.got(f"clone with flags {flags:#x}")
            os.waitpid(result, 0)


TECHNIQUE = Technique(
    source="clone(2); container breakouts through unprivileged user namespaces",
    policy=fork,
    event=("kernel.namespace",),
    by="kernel",
    syscall="clone",
    stops=("notification",),
    control=Bare(),
)
