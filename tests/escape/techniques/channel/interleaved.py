"""Write to the wire from many threads at once, in halves."""

import os
import threading
import time

from tests.escape.technique import NO_WIRE, Alone, Technique, not_run


def attack(world):
    frame = world.denial()
    wire = world.wire()

    def write():
        for _ in range(50):
            os.write(wire, frame[:10])
            os.write(wire, frame[10:])

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    world.send_bytes(b"\xff" * 8)
    time.sleep(0.2)


TECHNIQUE = Technique(
    source="CWE-20, CWE-841: every frame type in every state, whole and malformed",
    no_event="the frame is refused and the cell killed: a broken protocol is no denial",
    also=("fs.read",),
    must_end=("SandboxDied",),
    stops=("wire",),
    control=Alone("the same frame in its place is what every answer is: tests/unit/test_wire.py"),
    thread=not_run(NO_WIRE),
)
