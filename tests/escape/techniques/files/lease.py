"""Take a lease on a granted file, which stalls whoever opens it outside."""

from tests.escape.technique import Bare, Technique


def attack(world):
    descriptor = world.open_raw(world.granted)
    result, _ = world.attempt("fcntl", descriptor, 1024, 0)
    if result == 0:
        world.got("a lease")


TECHNIQUE = Technique(
    source="fcntl(2) F_SETLEASE: a denial of service on others",
    event=("kernel.syscall",),
    by="kernel",
    syscall="fcntl",
    stops=("seccomp",),
    control=Bare(),
)
