"""Move another process's pages."""

from tests.escape.technique import Alone, Technique


def attack(world):
    world.floor("migrate_pages", world.victim, 1, b"\0" * 8, b"\0" * 8)


TECHNIQUE = Technique(
    source="migrate_pages(2)",
    event=("process.trace",),
    by="kernel",
    syscall="migrate_pages",
    stops=("seccomp",),
    control=Alone("its answer depends on the machine's memory nodes"),
)
