"""Spawn from the warm pool: at most 1/100 of running a Python process."""

from __future__ import annotations

import subprocess
import sys
import time

import pyisolate

from .figures import Outcome, Reference, Settings, at_most_ratio
from .measure import median, spread, take_turns, timed
from .quiet import wait_full

POOL = 4
COMMAND = [sys.executable, "-c", ""]


def run(settings: Settings) -> Outcome:
    """Time `spawn` alone, the pool full and everything else at rest; `exec` and `close` are timed beside it."""
    execs: list[float] = []
    closes: list[float] = []
    with pyisolate.Supervisor(pool_size=POOL) as supervisor:

        def ours() -> float:
            wait_full(supervisor, POOL)
            t0 = time.perf_counter()
            sandbox = supervisor.spawn("benchmark")
            t1 = time.perf_counter()
            sandbox.exec("1")
            t2 = time.perf_counter()
            sandbox.close()
            execs.append(t2 - t1)
            closes.append(time.perf_counter() - t2)
            return t1 - t0

        supervisor.spawn("first").close()  # starts the zygote, compiles the policy, builds its root view
        for _ in range(5):
            ours()
        execs.clear()
        closes.clear()
        spawns, processes = take_turns(
            settings.rounds(200, 40), ours, timed(lambda: subprocess.run(COMMAND, check=True))
        )
    note = f"then its first exec {median(execs) * 1e6:.0f} µs, close {median(closes) * 1e6:.0f} µs (medians)"
    reference = Reference('subprocess.run([python, "-c", ""])', median(processes))
    figure = at_most_ratio(
        "spawn, warm pool, p50",
        median(spawns),
        reference,
        1 / 100,
        unit="s",
        budget="<= 1/100",
        spread=spread(spawns) + " µs",
        note=note,
    )
    return Outcome(figures=[figure])
