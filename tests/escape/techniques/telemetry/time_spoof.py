"""Date a record into the far future, so that it sorts and expires wrongly."""

from tests.escape.technique import NO_WIRE, Alone, Technique, not_run


def attack(world):
    world.send(world.denial(target="/forged", monotonic_ns=2**62))


def outside(ground, run):
    import time

    wrong = [
        event
        for event in run.events
        if max(event["monotonic_ns"], event["last_seen"], event["first_seen"]) > time.monotonic_ns() + 10**12
        or event["time"] > time.time() + 3600
    ]
    return f"it is dated into the future: {wrong[0]['monotonic_ns']}" if wrong else ""


TECHNIQUE = Technique(
    source="CWE-345: time of an untrusted reporter",
    effect=outside,
    event=("fs.read",),
    by="broker",
    stops=("telemetry",),
    control=Alone("tests/unit/test_merge_untrusted.py"),
    thread=not_run(NO_WIRE),
)
