"""Use the processor without end, in Python."""

from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    while True:
        pass


TECHNIQUE = Technique(
    source="CWE-400",
    policy=lambda p, t: p.with_limits(cpu="1s"),
    event=("limit.cpu",),
    stops=("limits",),
    must_end=("CPUExceeded",),
    timeout_s=25.0,
    control=Alone("tests/host/test_limits_sandbox.py: under the limit it runs"),
    thread=not_run("it would take the host's own processor for as long as the test waits"),
)
