"""Print without end."""

import os

from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    while True:
        os.write(1, b"x" * 65536)


TECHNIQUE = Technique(
    source="CWE-400",
    policy=lambda p, t: p.with_limits(output="256KiB"),
    event=("limit.output",),
    stops=("limits",),
    must_end=("OutputExceeded",),
    control=Alone("tests/host/test_limits_sandbox.py: under the limit it runs"),
    thread=not_run("it would write to the host's own output"),
)
