"""Spawn with an empty pool (fork on demand): at most 1/10 of running a Python process."""

from __future__ import annotations

import subprocess
import time

import pyisolate

from .figures import Outcome, Reference, Settings, at_most_ratio
from .measure import median, spread, take_turns, timed
from .quiet import wait_full
from .spawn_pool import COMMAND


def run(settings: Settings) -> Outcome:
    """Time `spawn` on a supervisor that keeps no warm cell."""
    with pyisolate.Supervisor(pool_size=0) as supervisor:

        def ours() -> float:
            wait_full(supervisor, 0)
            started = time.perf_counter()
            sandbox = supervisor.spawn("benchmark")
            took = time.perf_counter() - started
            sandbox.close()
            return took

        for _ in range(5):
            ours()
        spawns, processes = take_turns(
            settings.rounds(150, 30), ours, timed(lambda: subprocess.run(COMMAND, check=True))
        )
    reference = Reference('subprocess.run([python, "-c", ""])', median(processes))
    figure = at_most_ratio(
        "spawn, empty pool, p50",
        median(spawns),
        reference,
        1 / 10,
        unit="s",
        budget="<= 1/10",
        spread=spread(spawns) + " µs",
    )
    return Outcome(figures=[figure])
