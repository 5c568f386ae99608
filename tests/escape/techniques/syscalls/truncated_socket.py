"""Ask for a packet socket with bits above the family that the kernel cuts off."""

from tests.escape.grants import another_port
from tests.escape.technique import Bare, Technique


def attack(world):
    for family, kind in ((17, 3), (16, 3), (40, 1)):
        result, _ = world.attempt("socket", family | (1 << 32), kind | (1 << 32), 0)
        if result >= 0:
            world.got(f"a socket of family {family}")


TECHNIQUE = Technique(
    source="CVE-2019-7303 class: 64-bit comparison of 32-bit arguments",
    policy=another_port,
    event=("net.socket",),
    by="kernel",
    syscall="socket",
    stops=("notification",),
    control=Bare(),
)
