"""Begin a frame and end the process."""

import struct

from tests.escape.technique import NO_WIRE, Alone, Technique, not_run


def attack(world):
    world.send_bytes(struct.pack(">I", 1000) + b"\x82")
    world.libc._exit(3)


TECHNIQUE = Technique(
    source="CWE-20, CWE-841: every frame type in every state, whole and malformed",
    no_event="nothing is refused: the cell ends",
    must_end=("SandboxDied",),
    stops=("wire",),
    control=Alone("the same frame in its place is what every answer is: tests/unit/test_wire.py"),
    thread=not_run(NO_WIRE),
)
