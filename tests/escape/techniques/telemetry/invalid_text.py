"""Send text that is no UTF-8."""

from tests.escape.technique import NO_WIRE, Alone, Technique, not_run


def attack(world):
    frame = bytearray(world.denial(target="/forged-here"))
    at = frame.index(b"/forged-here")
    frame[at + 1 : at + 4] = b"\xff\xfe\x80"
    world.send_bytes(bytes(frame))


TECHNIQUE = Technique(
    source="CWE-176",
    no_event="the frame is refused, and the cell killed",
    must_end=("SandboxDied",),
    stops=("wire",),
    control=Alone("telemetry/forge_denial is the record that is taken"),
    thread=not_run(NO_WIRE),
)
