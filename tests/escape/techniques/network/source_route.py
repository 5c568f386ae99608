"""Send a granted address's packets by way of another host: IP options."""

from tests.escape.grants import another_port
from tests.escape.technique import Bare, Technique


def attack(world):
    descriptor = world.socket_raw(2, 1)
    options = bytes([131, 7, 4, 127, 0, 0, 2, 0])
    world.floor("setsockopt", descriptor, 0, 4, options, len(options))


TECHNIQUE = Technique(
    source="ip(7) IP_OPTIONS: loose source routing (RFC 791)",
    policy=another_port,
    event=("net.socket",),
    by="kernel",
    syscall="setsockopt",
    stops=("seccomp",),
    control=Bare(root=True),
)
