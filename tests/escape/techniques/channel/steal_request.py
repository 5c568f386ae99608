"""Read the host's next request from the wire, and never answer it."""

import os
import threading

from tests.escape.technique import NO_WIRE, Alone, Technique, not_run


def attack(world):
    import socket

    channel = socket.socket(fileno=os.dup(world.wire()))

    def swallow():
        while True:
            if not channel.recv(65536):
                return

    threading.Thread(target=swallow, daemon=True).start()


def outside(ground, run):
    fine = run.then_error == "TimeoutError" or "honest" in run.then_text
    return "" if fine else f"the next request ended with {run.then_error or run.then_text}"


TECHNIQUE = Technique(
    source="CWE-20, CWE-841: every frame type in every state, whole and malformed",
    no_event="nothing is refused: the guest runs into its time",
    also=("limit.wall",),
    effect=outside,
    then="'honest'",
    stops=("wire",),
    control=Alone("the same frame in its place is what every answer is: tests/unit/test_wire.py"),
    timeout_s=0.6,
    thread=not_run(NO_WIRE),
)
