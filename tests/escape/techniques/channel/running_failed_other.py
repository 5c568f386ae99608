"""Send a failure of another request while a request runs."""

import time

from tests.escape.technique import NO_WIRE, Alone, Technique, not_run


def attack(world):
    world.send(
        world.frame(
            "failed",
            id=10**6,
            type_name="PolicyError",
            message="FORGED",
            traceback="",
            sequence=None,
            errno=13,
            duration_s=0.0,
        )
    )
    time.sleep(0.2)


TECHNIQUE = Technique(
    source="CWE-20, CWE-841: every frame type in every state, whole and malformed",
    no_event="the frame is refused and the cell killed: a broken protocol is no denial",
    must_end=("SandboxDied",),
    stops=("wire",),
    control=Alone("the same frame in its place is what every answer is: tests/unit/test_wire.py"),
    thread=not_run(NO_WIRE),
)
