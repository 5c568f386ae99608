"""Write random bytes to the wire."""

import time

from tests.escape.technique import NO_WIRE, Alone, Technique, not_run


def attack(world):
    import random

    world.send_bytes(bytes(random.Random(5).randrange(256) for _ in range(5000)))
    time.sleep(0.2)


TECHNIQUE = Technique(
    source="issue 5: every frame type at every state; facts: a public prototype is disarmed by one forged frame",
    no_event="the frame is refused and the cell killed: a broken protocol is no denial",
    must_end=("SandboxDied",),
    stops=("wire",),
    control=Alone("the same frame in its place is what every answer is: tests/unit/test_wire.py"),
    thread=not_run(NO_WIRE),
)
