"""Spawn from the warm pool: at most 1/100 of running a Python process."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Sequence

import pyisolate

from .figures import Figure, Outcome, Reference, Settings, at_most_ratio
from .measure import median, spread, take_turns, timed
from .quiet import wait_full

POOL = 4
COMMAND = [sys.executable, "-c", ""]


def run(settings: Settings) -> Outcome:
    """Time `spawn` alone, the pool full and everything else at rest; `exec` and `close` are timed beside it."""
    with pyisolate.Supervisor(pool_size=POOL) as supervisor:
        same = ["compute"]
        # None of them becomes the usual one, so that there are no spares: each spawn waits for its hand-out.
        mixed = [pyisolate.Policy.preset("compute").with_limits(output=f"{size}kB") for size in range(101, 109)]
        figures = [
            _time(settings, supervisor, same, "spawn, warm pool, p50", 1 / 100, "<= 1/100"),
            _time(settings, supervisor, mixed, "spawn, warm pool, another policy each time, p50", None, ""),
        ]
    return Outcome(figures=figures)


def _time(
    settings: Settings,
    supervisor: pyisolate.Supervisor,
    policies: Sequence[pyisolate.Policy | str],
    name: str,
    bound: float | None,
    budget: str,
) -> Figure:
    execs: list[float] = []
    closes: list[float] = []
    turn = itertools.cycle(policies)

    def ours() -> float:
        policy = next(turn)
        wait_full(supervisor, POOL)
        t0 = time.perf_counter()
        sandbox = supervisor.spawn("benchmark", policy)
        t1 = time.perf_counter()
        sandbox.exec("1")
        t2 = time.perf_counter()
        sandbox.close()
        execs.append(t2 - t1)
        closes.append(time.perf_counter() - t2)
        return t1 - t0

    for _ in range(2 * len(policies) + 5):  # starts the zygote, compiles the policies, builds their root views
        ours()
    execs.clear()
    closes.clear()
    spawns, processes = take_turns(settings.rounds(200, 40), ours, timed(lambda: subprocess.run(COMMAND, check=True)))
    note = f"then its first exec {median(execs) * 1e6:.0f} µs, close {median(closes) * 1e6:.0f} µs (medians)"
    reference = Reference('subprocess.run([python, "-c", ""])', median(processes))
    if bound is None:
        return Figure(
            what=name, value=median(spawns), unit="s", reference=reference, spread=spread(spawns) + " µs", note=note
        )
    return at_most_ratio(
        name, median(spawns), reference, bound, unit="s", budget=budget, spread=spread(spawns) + " µs", note=note
    )
