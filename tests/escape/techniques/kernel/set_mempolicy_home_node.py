"""Set the home node of one's memory."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("set_mempolicy_home_node", 0, 0, 0, 0)


TECHNIQUE = Technique(
    source="set_mempolicy_home_node(2)",
    event=("kernel.syscall",),
    by="kernel",
    syscall="set_mempolicy_home_node",
    stops=("seccomp",),
    control=Bare(answer="OK|EINVAL|ENOSYS"),
)
