"""Put terminal control into a path that the kernel's record names."""

from tests.escape.technique import Alone, Technique


def attack(world):
    world.attempt("execve", b"/x\x1b[2J\n\x07\xff\xfe", None, None)
    try:
        open("/y\x1b[2J\n\x07\udcff")
    except OSError:
        pass


def outside(ground, run):
    raw = [event["target"] for event in run.events if any(ord(c) < 32 for c in event["target"])]
    return f"control characters came through: {raw}" if raw else ""


TECHNIQUE = Technique(
    source="CWE-117 log injection",
    effect=outside,
    event=("process.exec", "fs.read"),
    stops=("telemetry",),
    control=Alone("tests/unit/test_event_sanitize.py has the text as it was sent"),
)
