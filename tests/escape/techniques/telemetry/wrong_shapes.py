"""Send records of every wrong shape."""

from tests.escape.technique import NO_WIRE, Alone, Technique, not_run


def attack(world):
    for record in (
        {},
        [],
        None,
        5,
        "x",
        {"sequence": "1"},
        {"sequence": 1, "capability": "fs.everything", "target": "", "verdict": "deny"},
    ):
        world.send(world.frame("denial", record=record))


TECHNIQUE = Technique(
    source="CWE-20: a record, malformed",
    no_event="the frame is refused, and the cell killed",
    must_end=("SandboxDied",),
    stops=("wire",),
    control=Alone("telemetry/forge_denial is the record that is taken"),
    thread=not_run(NO_WIRE),
)
