"""Signal everybody that may be signalled: pid -1, pid 0, every group."""

from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    for target in (-1, 0, -world.victim, -world.supervisor):
        world.attempt("kill", target, 10) if target != 0 else None


TECHNIQUE = Technique(
    source="man 2 kill",
    event=("process.signal",),
    stops=("namespaces", "landlock"),
    ends=("SandboxDied",),
    control=Alone("it would signal every process of the user on this machine"),
    thread=not_run("it signals every process of the user on this machine, were it not stopped"),
)
