"""A guest calls a function of the host with 1 kB: at most 1.5 x a `call` of the host's."""

from __future__ import annotations

from typing import Any

import pyisolate

from .figures import Figure, Outcome, Reference, Settings
from .measure import batch, median, spread, take_turns

CALLS = 20
PAYLOAD = "x" * 1000
GUEST = """
import time

def echo(value):
    return value

def calls(count, value):
    began = time.perf_counter()
    for _ in range(count):
        host_echo(value)
    return (time.perf_counter() - began) / count
"""


def echo(value: Any) -> Any:
    """Return a value to the guest that sent it."""
    return value


def run(settings: Settings) -> Outcome:
    """Measure both in batches that take turns; the guest times its own calls."""
    with (
        pyisolate.Supervisor(pool_size=1) as supervisor,
        supervisor.spawn("benchmark", functions={"host_echo": echo}, limits={"cpu": "60s"}) as sandbox,
    ):
        sandbox.exec(GUEST)
        if sandbox.eval(f"host_echo({PAYLOAD!r})") != PAYLOAD:
            raise AssertionError("host call: the echo came back changed")
        ours, calls = take_turns(
            settings.rounds(300, 60),
            lambda: float(sandbox.call("calls", CALLS, PAYLOAD)),
            batch(lambda: sandbox.call("echo", PAYLOAD), CALLS),
        )
    reference = Reference("sandbox.call", median(calls))
    figure = Figure(
        what="host function, 1 kB, from the guest",
        value=median(ours),
        unit="s",
        spread=f"{spread(ours)} x {CALLS} µs",
        reference=reference,
        budget="<= 1.5x",
        met=median(ours) <= 1.5 * reference.value,
    )
    return Outcome(figures=[figure])
