"""Claim a number of refusals that ruins every counter."""

from tests.escape.technique import NO_WIRE, Alone, Technique, not_run


def attack(world):
    world.send(world.denial(target="/forged", count=2**62), world.denial(target="/forged", count=2**63 - 1))


def outside(ground, run):
    return f"counted {run.denials}" if run.denials > 2_000_000 else ""


TECHNIQUE = Technique(
    source="CWE-190: integer overflow of counters",
    effect=outside,
    event=("fs.read",),
    by="broker",
    ends=("SandboxDied",),
    stops=("telemetry",),
    control=Alone("the count is capped: tests/unit/test_merge_untrusted.py"),
    thread=not_run(NO_WIRE),
)
