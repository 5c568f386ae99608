"""Fail with megabytes of message and traceback."""

from tests.escape.technique import NO_WIRE, Alone, Technique, not_run


def attack(world):
    class Loud(Exception):
        def __str__(self):
            return "x" * (8 << 20)

    raise Loud


def outside(ground, run):
    return "" if len(run.error_text) < 100000 else f"{len(run.error_text)} characters"


TECHNIQUE = Technique(
    source="CWE-20, CWE-841: every frame type in every state, whole and malformed",
    no_event="nothing is refused: texts are cut",
    effect=outside,
    stops=("wire",),
    control=Alone("the same frame in its place is what every answer is: tests/unit/test_wire.py"),
    thread=not_run(NO_WIRE),
)
