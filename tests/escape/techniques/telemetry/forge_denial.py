"""Forge a denial record of one's own, over the wire."""

from tests.escape.technique import NO_WIRE, Alone, Technique, not_run


def attack(world):
    world.send(world.denial(target="/forged"))


def outside(ground, run):
    wrong = [event for event in run.events if event["target"] == "/forged" and event["reported_by"] != "guest"]
    return f"it passes for the host's: {wrong[0]}" if wrong else ""


TECHNIQUE = Technique(
    source="CWE-345: a forged record says that only the guest reports it",
    effect=outside,
    event=("fs.read",),
    by="broker",
    stops=("telemetry",),
    control=Alone("it is taken in, as the guest's own word"),
    thread=not_run(NO_WIRE),
)
