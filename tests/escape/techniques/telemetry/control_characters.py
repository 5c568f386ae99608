"""Put terminal control, new lines and JSON into a target."""

from tests.escape.technique import NO_WIRE, Alone, Technique, not_run


def attack(world):
    world.send(
        world.denial(
            target='/x\x1b[2J\x07\r\n{"event_id":"forged"}\u202e\u2028', origin="a\nb\x00c", reason="\x1b]0;owned\x07"
        )
    )


def outside(ground, run):
    for event in run.events:
        raw = [
            key
            for key in ("target", "origin", "broker_reason")
            if event[key] and any(ord(c) < 32 or c in "\u202e\u2028\x7f" for c in event[key])
        ]
        if raw:
            return f"control characters came through in {raw}"
    return ""


TECHNIQUE = Technique(
    source="CWE-117 log injection; terminal escape injection",
    effect=outside,
    event=("fs.read",),
    by="broker",
    stops=("telemetry",),
    control=Alone("tests/unit/test_event_sanitize.py has the text as it was sent"),
    thread=not_run(NO_WIRE),
)
