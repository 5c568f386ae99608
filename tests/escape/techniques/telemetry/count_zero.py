"""Claim no refusal, or fewer than none."""

from tests.escape.technique import NO_WIRE, Alone, Technique, not_run


def attack(world):
    world.send(world.denial(count=0), world.denial(count=-5))


TECHNIQUE = Technique(
    source="erase by counting down",
    no_event="the frame is refused, and the cell killed",
    must_end=("SandboxDied",),
    stops=("wire", "telemetry"),
    control=Alone("telemetry/forge_denial is the record that is taken"),
    thread=not_run(NO_WIRE),
)
