"""Post a value that contains itself."""

from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    value = {}
    value["me"] = value
    post(value)


TECHNIQUE = Technique(
    source="CWE-835",
    no_event="nothing is refused by policy: the value does not travel",
    stops=("wire",),
    control=Alone("a flat value travels: every technique's does"),
    thread=not_run("objects are shared as they are"),
)
