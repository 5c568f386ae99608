"""Report as the supervisor's process."""

from tests.escape.technique import NO_WIRE, Alone, Technique, not_run


def attack(world):
    world.send(world.denial(target="/forged", pid=world.supervisor, tid=world.supervisor))


def outside(ground, run):
    wrong = [event for event in run.events if event["pid"] != run.pid or event["reported_by"] != "guest"]
    return f"an event is not the cell's own report: {wrong}" if wrong else ""


TECHNIQUE = Technique(
    source="CWE-345: pids of an untrusted reporter",
    effect=outside,
    event=("fs.read",),
    by="broker",
    stops=("telemetry",),
    control=Alone("tests/unit/test_merge_untrusted.py"),
    thread=not_run(NO_WIRE),
)
