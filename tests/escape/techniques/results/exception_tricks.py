"""Raise exceptions whose class, text and traceback harm whoever shows them."""

from tests.escape.technique import Alone, Technique


class Meta(type):
    def __repr__(cls):
        raise ValueError("repr")


class Nasty(Exception, metaclass=Meta):
    def __str__(self):
        raise SystemExit(3)

    __repr__ = __str__


def attack(world):
    error = Nasty()
    error.__cause__ = error
    error.__notes__ = ["x" * 100000] * 10
    raise error


TECHNIQUE = Technique(
    source="CWE-755",
    no_event="nothing is refused",
    stops=("supervisor",),
    ends=("SandboxDied",),
    then="'alive'",
    control=Alone("an ordinary exception arrives: tests/host/test_sandbox.py"),
)
