"""Shut the wire down in both directions."""

import time

from tests.escape.technique import NO_WIRE, Alone, Technique, not_run


def attack(world):
    world.libc.shutdown(world.wire(), 2)
    time.sleep(0.2)


TECHNIQUE = Technique(
    source="CWE-20, CWE-841: every frame type in every state, whole and malformed",
    no_event="nothing is refused: the host sees the end of the wire",
    must_end=("SandboxDied",),
    stops=("wire",),
    control=Alone("the same frame in its place is what every answer is: tests/unit/test_wire.py"),
    thread=not_run(NO_WIRE),
)
