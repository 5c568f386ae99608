"""Answer early, so that the host believes that nothing runs, and run on, whatever interrupts."""

from tests.escape.technique import NO_WIRE, Alone, Technique, not_run


def attack(world):
    world.send(
        world.frame("done", id=world.request_id(), encoded=world.pack(1), is_repr=False, exit_code=None, duration_s=0.0)
    )
    while True:
        try:
            while True:
                pass
        except KeyboardInterrupt:  # the timeout of the next request interrupts before it kills
            pass


def outside(ground, run):
    return (
        ""
        if run.then_error in ("TimeoutError", "SandboxDied", "CPUExceeded")
        else f"the next request ended with {run.then_error or run.then_text}"
    )


TECHNIQUE = Technique(
    source="CWE-841: a forged answer that disarms the timer of a request",
    event=("limit.wall",),
    ends=("SandboxDied", "TimeoutError", "CPUExceeded"),
    effect=outside,
    then="'next'",
    stops=("wire",),
    control=Alone("the same frame in its place is what every answer is: tests/unit/test_wire.py"),
    timeout_s=0.6,
    thread=not_run(NO_WIRE),
)
