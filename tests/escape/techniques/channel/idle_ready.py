"""Send an answer to the hand-out after the request has ended."""

import threading

from tests.escape.technique import NO_WIRE, Alone, Technique, not_run


def attack(world):
    frame = world.frame("ready", steps=["landlock"], failed=[])
    threading.Timer(0.05, lambda: world.send(frame)).start()


def outside(ground, run):
    return "" if run.then_error == "SandboxDied" else f"the next request ended with {run.then_error or 'success'}"


TECHNIQUE = Technique(
    source="CWE-20, CWE-841: every frame type in every state, whole and malformed",
    no_event="the frame is refused and the cell killed: a broken protocol is no denial",
    effect=outside,
    then="import time; time.sleep(0.3)",
    stops=("wire",),
    control=Alone("the same frame in its place is what every answer is: tests/unit/test_wire.py"),
    thread=not_run(NO_WIRE),
)
