"""Make Landlock rulesets until the limit of layers is reached."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("landlock_create_ruleset", None, 0, 1)


TECHNIQUE = Technique(
    source="landlock_create_ruleset(2): E2BIG after 16 layers",
    event=("kernel.syscall",),
    by="kernel",
    syscall="landlock_create_ruleset",
    stops=("seccomp",),
    control=Bare(),
)
