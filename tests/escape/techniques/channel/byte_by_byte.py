"""Send a granted frame one byte at a time."""

from tests.escape.technique import NO_WIRE, Alone, Technique, not_run


def attack(world):
    for byte in world.frame("message", encoded=world.pack("slow")):
        world.send_bytes(bytes([byte]))


def outside(ground, run):
    return "" if any("slow" in message for message in run.messages) else "a granted frame was lost"


TECHNIQUE = Technique(
    source="CWE-20, CWE-841: every frame type in every state, whole and malformed",
    no_event="nothing is refused: it is a frame like others",
    effect=outside,
    stops=("wire",),
    control=Alone("the frame arrives: that is the control"),
    thread=not_run(NO_WIRE),
)
