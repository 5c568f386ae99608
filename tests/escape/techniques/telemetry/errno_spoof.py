"""Claim that the kernel refused what it never saw."""

from tests.escape.technique import NO_WIRE, Alone, Technique, not_run


def attack(world):
    world.send(world.denial(target="/forged", verdict="allow", code=None, errno=13))


def outside(ground, run):
    wrong = [
        event
        for event in run.events
        if event["target"] == "/forged"
        and (event["reported_by"] != "guest" or event["kernel_enforcer"] or event["kernel_evaluation"] == "enforced")
    ]
    return f"it passes for the kernel's: {wrong[0]}" if wrong else ""


TECHNIQUE = Technique(
    source="CWE-345: the kernel's refusal by an untrusted reporter",
    effect=outside,
    event=("fs.read",),
    by="kernel",
    stops=("telemetry",),
    control=Alone("it is taken in, as the guest's own word: errno, not enforced"),
    thread=not_run(NO_WIRE),
)
