"""Return a value nested deeper than the host would follow."""

from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    value = []
    for _ in range(500):
        value = [value]
    post(value)


TECHNIQUE = Technique(
    source="CWE-674: recursion over a guest's value",
    no_event="nothing is refused by policy: the value does not travel",
    stops=("wire",),
    ends=("SandboxDied",),
    control=Alone("a flat value travels: every technique's does"),
    thread=not_run("objects are shared as they are"),
)
