"""Set an option of the process with bits above its number that the kernel cuts off."""

from tests.escape.technique import Bare, Technique


def attack(world):
    for option, value in ((4, 1), (1, 0), (22, 1), (35, 8)):
        result, _ = world.attempt("prctl", option | (1 << 32), value, 0, 0, 0)
        if result == 0:
            world.got(f"prctl {option}")


TECHNIQUE = Technique(
    source="CVE-2019-7303 class: 64-bit comparison of 32-bit arguments",
    event=("kernel.syscall",),
    by="kernel",
    syscall="prctl",
    stops=("seccomp",),
    control=Bare(),
)
