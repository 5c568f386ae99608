"""Answer an old request again when the next one runs."""

import threading

from tests.escape.technique import NO_WIRE, Alone, Technique, not_run


def attack(world):
    frame = world.frame(
        "done", id=world.request_id(), encoded=world.pack("FORGED"), is_repr=False, exit_code=None, duration_s=0.0
    )
    threading.Timer(0.1, lambda: world.send(frame)).start()


def outside(ground, run):
    return "the next request was answered by a forged frame" if "FORGED" in run.then_text else ""


TECHNIQUE = Technique(
    source="CWE-20, CWE-841: every frame type in every state, whole and malformed",
    no_event="the frame is refused and the cell killed: a broken protocol is no denial",
    effect=outside,
    then="import time; time.sleep(0.4); 'honest'",
    stops=("wire",),
    control=Alone("the same frame in its place is what every answer is: tests/unit/test_wire.py"),
    thread=not_run(NO_WIRE),
)
