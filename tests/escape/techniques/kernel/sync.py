"""Write all of the machine's dirty pages."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("sync")


TECHNIQUE = Technique(
    source="sync(2): a denial of service on others",
    event=("kernel.syscall",),
    by="kernel",
    syscall="sync",
    stops=("seccomp",),
    control=Bare(),
)
