"""Forge a broker record for a refusal of the kernel's, so that it looks like an honest mistake."""

from tests.escape.technique import NO_WIRE, Alone, Technique, not_run


def attack(world):
    world.attempt("unshare", 0x10000000)
    world.send(
        world.denial(capability="kernel.namespace", target="unshare(CLONE_NEWUSER)", code="ALWAYS_DENIED", sequence=9)
    )


def outside(ground, run):
    kernel = [
        event
        for event in run.events
        if event["capability"] == "kernel.namespace"
        and event["kernel_decision"] == "deny"
        and event["reported_by"] == "kernel"
    ]
    return "" if kernel else "the kernel's own record is gone"


TECHNIQUE = Technique(
    source="suppress what the kernel saw",
    effect=outside,
    event=("kernel.namespace",),
    by="kernel",
    stops=("telemetry",),
    control=Alone("the kernel's record stands beside it"),
    thread=not_run(NO_WIRE),
)
