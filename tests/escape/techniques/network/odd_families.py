"""Make sockets of every other family and protocol that the kernel may know."""

from tests.escape.grants import another_port
from tests.escape.technique import Bare, Technique


def attack(world):
    for family in (3, 4, 5, 9, 21, 23, 24, 26, 27, 29, 30, 31, 35, 39, 41, 42, 43, 44, 45):
        for kind in (1, 2, 3, 5):
            result, _ = world.attempt("socket", family, kind, 0)
            if result >= 0:
                world.got(f"family {family}, type {kind}")
    for protocol in (33, 136, 255, 47, 50):
        result, _ = world.attempt("socket", 2, 2 if protocol == 136 else 3, protocol)
        if result >= 0:
            world.got(f"protocol {protocol}")


TECHNIQUE = Technique(
    source="address_families(7); Docker's default seccomp profile",
    policy=another_port,
    event=("net.socket",),
    by="kernel",
    syscall="socket",
    stops=("notification",),
    control=Bare(),
)
