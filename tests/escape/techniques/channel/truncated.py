"""Begin a frame and never end it."""

import struct
import time

from tests.escape.technique import NO_WIRE, Alone, Technique, not_run


def attack(world):
    world.send_bytes(struct.pack(">I", 1000) + b"\x82")
    time.sleep(0.1)


TECHNIQUE = Technique(
    source="CWE-20, CWE-841: every frame type in every state, whole and malformed",
    event=("limit.wall",),
    ends=("SandboxDied", "TimeoutError"),
    stops=("wire",),
    control=Alone("the same frame in its place is what every answer is: tests/unit/test_wire.py"),
    timeout_s=0.7,
    thread=not_run(NO_WIRE),
)
