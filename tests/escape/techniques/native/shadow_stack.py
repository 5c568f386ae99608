"""Map a shadow stack, which is written by calls."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("map_shadow_stack", 0, 4096, 1)


TECHNIQUE = Technique(
    source="map_shadow_stack(2), 6.6",
    event=("memory.exec",),
    by="kernel",
    syscall="map_shadow_stack",
    stops=("seccomp",),
    control=Bare(answer="ENOSYS"),
)
