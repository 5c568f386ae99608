"""Spawn from the warm pool, and a whole sandbox (spawn, exec, close): at most 1/100 and 1/18 of a Python process."""

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
#: A ratio, and how it is written.
Bound = tuple[float, str]
COMMAND = [sys.executable, "-c", ""]


def run(settings: Settings) -> Outcome:
    """Time `spawn` alone, the pool full and everything else at rest; `exec` and `close` are timed beside it."""
    with pyisolate.Supervisor(pool_size=POOL) as supervisor:
        same = ["compute"]
        # None of them becomes the usual one; as frequent ones they have a zygote and a standby cell each.
        mixed = [pyisolate.Policy.preset("compute").with_limits(output=f"{size}kB") for size in range(101, 109)]
        figures = [
            *_time(settings, supervisor, same, "warm pool, p50", (1 / 100, "<= 1/100"), (1 / 18, "<= 1/18")),
            *_time(settings, supervisor, mixed, "warm pool, another policy each time, p50", None, (1 / 15, "<= 1/15")),
        ]
    return Outcome(figures=figures)


def _time(
    settings: Settings,
    supervisor: pyisolate.Supervisor,
    policies: Sequence[pyisolate.Policy | str],
    name: str,
    of_spawn: Bound | None,
    of_life: Bound,
) -> list[Figure]:
    spawns: list[float] = []
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
        t3 = time.perf_counter()
        spawns.append(t1 - t0)
        execs.append(t2 - t1)
        closes.append(t3 - t2)
        return t3 - t0

    for _ in range(5 * len(policies) + 5):  # starts the zygotes, compiles the policies, builds their root views
        ours()
    for before in (spawns, execs, closes):
        before.clear()
    lives, processes = take_turns(settings.rounds(200, 40), ours, timed(lambda: subprocess.run(COMMAND, check=True)))
    note = f"then its first exec {median(execs) * 1e6:.0f} µs, close {median(closes) * 1e6:.0f} µs (medians)"
    reference = Reference('subprocess.run([python, "-c", ""])', median(processes))
    spawn = _figure(f"spawn, {name}", spawns, reference, of_spawn, note)
    return [spawn, _figure(f"spawn + exec + close, {name}", lives, reference, of_life)]


def _figure(name: str, samples: list[float], reference: Reference, bound: Bound | None, note: str = "") -> Figure:
    of_samples = spread(samples) + " µs"
    if bound is None:
        return Figure(what=name, value=median(samples), unit="s", reference=reference, spread=of_samples, note=note)
    limit, budget = bound
    return at_most_ratio(name, median(samples), reference, limit, unit="s", budget=budget, spread=of_samples, note=note)
