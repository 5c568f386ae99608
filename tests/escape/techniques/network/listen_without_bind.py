"""Listen without binding, on a port that the kernel picks."""

from tests.escape.grants import another_port
from tests.escape.technique import Granted, Technique


def attack(world):
    descriptor = world.socket_raw(2, 1)
    world.floor("listen", descriptor, 1)


TECHNIQUE = Technique(
    source="Landlock allows listen() without bind (facts)",
    policy=another_port,
    event=("net.listen", "net.bind"),
    by="kernel",
    syscall="listen",
    stops=("notification",),
    control=Granted(lambda p, t: p.allow_bind("0.0.0.0:0")),
)
