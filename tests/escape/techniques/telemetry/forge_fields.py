"""Forge a record that claims another sandbox, the kernel's verdict and the host's word."""

from tests.escape.technique import NO_WIRE, Alone, Technique, not_run


def attack(world):
    world.send(
        world.denial(
            target="/forged",
            sandbox="sibling",
            sandbox_id="0" * 16,
            policy="other",
            kernel_decision="deny",
            kernel_enforcer="landlock",
            reported_by="kernel",
            isolation="thread",
            event_id="x",
            mode="monitor",
            would_deny=True,
        )
    )


def outside(ground, run):
    for event in run.events:
        if (
            event["sandbox_id"] != run.sandbox_id
            or event["reported_by"] != "guest"
            or event["kernel_evaluation"] == "enforced"
            or event["event_id"] == "x"
        ):
            return f"a forged field was taken: {event}"
    return ""


TECHNIQUE = Technique(
    source="CWE-345: spoof another sandbox",
    effect=outside,
    event=("fs.read",),
    by="broker",
    stops=("telemetry",),
    control=Alone("unknown fields are dropped by the decoder: tests/unit/test_merge_untrusted.py"),
    thread=not_run(NO_WIRE),
)
