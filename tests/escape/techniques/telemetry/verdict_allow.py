"""Report that something was allowed, to fill the store with noise that is no refusal."""

from tests.escape.technique import NO_WIRE, Alone, Technique, not_run


def attack(world):
    world.send(world.denial(verdict="allow"))


TECHNIQUE = Technique(
    source="flood of what is no refusal",
    no_event="the frame is refused, and the cell killed",
    must_end=("SandboxDied",),
    stops=("wire", "telemetry"),
    control=Alone("telemetry/forge_denial is the record that is taken"),
    thread=not_run(NO_WIRE),
)
