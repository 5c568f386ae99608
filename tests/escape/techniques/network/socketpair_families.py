"""Make socket pairs of families other than unix."""

import ctypes

from tests.escape.technique import Bare, Technique


def attack(world):
    pair = (ctypes.c_int * 2)()
    for family in (2, 10, 16, 30, 40):
        result, _ = world.attempt("socketpair", family, 1, 0, pair)
        if result >= 0:
            world.got(f"a pair of family {family}")


TECHNIQUE = Technique(
    source="socketpair(2)",
    event=("net.socket",),
    by="kernel",
    syscall="socketpair",
    stops=("notification",),
    control=Bare(answer="ENOTSUP"),
)
