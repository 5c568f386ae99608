"""Forge a limit that was never reached."""

from tests.escape.technique import NO_WIRE, Alone, Technique, not_run


def attack(world):
    world.send(world.denial(capability="limit.memory", code="LIMIT_EXCEEDED", target="1"))


def outside(ground, run):
    wrong = [event for event in run.events if event["capability"] == "limit.memory" and event["reported_by"] != "guest"]
    return f"it passes for the supervisor's: {wrong[0]}" if wrong else ""


TECHNIQUE = Technique(
    source="CWE-345: a forged limit",
    effect=outside,
    event=("limit.memory",),
    by="kernel",
    ends=("SandboxDied",),
    stops=("telemetry",),
    control=Alone("it is taken in, as the guest's own word"),
    thread=not_run(NO_WIRE),
)
