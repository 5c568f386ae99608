"""Try the calls that no kernel implements any more."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("nfsservctl", 0, None, None)


TECHNIQUE = Technique(
    source="nfsservctl(2), unimplemented(2)",
    event=("kernel.mount",),
    by="kernel",
    syscall="nfsservctl",
    stops=("seccomp",),
    control=Bare(answer="ENOSYS"),
)
