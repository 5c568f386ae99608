"""Return, post and raise an object that runs a command when it is unpickled."""

import os

from tests.escape.technique import Alone, Technique, silent


class Poison:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)

    def __str__(self):
        return "poison"


class PoisonError(Exception):
    def __reduce__(self):
        return os.system, ("touch /tmp/x",)


def attack(world):
    poison = Poison(f"touch {world.outside}/unpickled")
    for value in (poison, [poison], {"x": poison}):
        try:
            post(value)
        except TypeError:
            pass
    raise PoisonError(poison)


TECHNIQUE = Technique(
    source="CVE-2025-14931 (smolagents: remote executor unpickles); pickle documentation",
    no_event="nothing is refused: what is not plain data does not travel",
    stops=("wire",),
    control=Alone("the host never unpickles; tests/unit/test_wire.py holds it to plain data"),
    thread=silent("objects are shared, and nothing is pickled"),
)
