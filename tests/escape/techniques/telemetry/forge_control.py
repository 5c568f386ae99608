"""Forge a refusal that only the host decides: control and its codes."""

from tests.escape.technique import NO_WIRE, Alone, Technique, not_run


def attack(world):
    world.send(world.denial(capability="control.reload"))


TECHNIQUE = Technique(
    source="CWE-345: a forged record",
    no_event="the frame is refused, and the cell killed",
    must_end=("SandboxDied",),
    stops=("wire", "telemetry"),
    control=Alone("telemetry/forge_denial is the record that is taken"),
    thread=not_run(NO_WIRE),
)
