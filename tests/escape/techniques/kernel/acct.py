"""Turn process accounting on."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("acct", b"/escape-none")


TECHNIQUE = Technique(
    source="acct(2)",
    event=("kernel.capability",),
    by="kernel",
    syscall="acct",
    stops=("seccomp", "credentials"),
    control=Bare(root=True, answer="ENOENT|ENOSYS"),
)
