"""Send megabytes in every text of a record."""

from tests.escape.technique import NO_WIRE, Alone, Technique, not_run


def attack(world):
    text = "A" * (1 << 20)
    world.send(world.denial(target=text, reason=text, rule=text, presented=text, origin=text, syscall=text))


def outside(ground, run):
    size = max((len(str(event)) for event in run.events), default=0)
    return f"an event of {size} characters" if size > 20000 else ""


TECHNIQUE = Technique(
    source="CWE-770",
    effect=outside,
    no_event="the frame is refused and the cell killed: a record is never so large",
    must_end=("SandboxDied",),
    stops=("wire", "telemetry"),
    control=Alone("texts are capped: tests/unit/test_merge_untrusted.py"),
    thread=not_run(NO_WIRE),
)
