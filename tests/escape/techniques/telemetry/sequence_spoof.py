"""Reuse and skip sequence numbers, to be joined with another refusal."""

from tests.escape.technique import NO_WIRE, Alone, Technique, not_run


def attack(world):
    frames = [
        world.denial(sequence=number, target=f"/forged-{index}")
        for index, number in enumerate((1, 1, 0, 2**63 - 1, 5, 4, 3))
    ]
    world.send(*frames)
    world.floor("unshare", 0x10000000)


def outside(ground, run):
    joined = [
        event for event in run.events if event["target"].startswith("/forged") and event["reported_by"] == "kernel"
    ]
    mine = [
        event
        for event in run.events
        if event["capability"] == "kernel.namespace" and event["broker_decision"] == "deny"
    ]
    return f"a forged record was joined with the kernel's: {(joined + mine)[0]}" if joined + mine else ""


TECHNIQUE = Technique(
    source="CWE-345: spoof sequence",
    effect=outside,
    event=("kernel.namespace",),
    by="kernel",
    stops=("telemetry",),
    control=Alone("a true pair is joined: tests/unit/test_merge_join.py"),
    thread=not_run(NO_WIRE),
)
