"""Spawn with an empty pool (fork on demand): at most 1/10 of running a Python process."""

from __future__ import annotations

import subprocess
import time

import pyisolate

from .figures import Outcome, Reference, Settings, at_most_ratio
from .measure import median, spread, take_turns, timed
from .quiet import wait_full
from .spawn_pool import COMMAND

#: Long enough for the kernel to have ended what the sandbox before left to it, RCU grace periods among it (seconds).
REST_S = 0.05


def run(settings: Settings) -> Outcome:
    """Time `spawn` on a supervisor that keeps no warm cell: right after another sandbox, and after a rest."""
    with pyisolate.Supervisor(pool_size=0) as supervisor:

        def ours(rest_s: float) -> float:
            wait_full(supervisor, 0)
            time.sleep(rest_s)
            started = time.perf_counter()
            sandbox = supervisor.spawn("benchmark")
            took = time.perf_counter() - started
            sandbox.close()
            return took

        def at_once() -> float:
            ours(0)  # not counted: what ran before it is a process
            return ours(0)

        ours(0)
        busy, rested, processes = take_turns(
            settings.rounds(80, 20), at_once, lambda: ours(REST_S), timed(lambda: subprocess.run(COMMAND, check=True))
        )
    reference = Reference('subprocess.run([python, "-c", ""])', median(processes))
    return Outcome(
        figures=[
            at_most_ratio(
                f"spawn, empty pool, p50, {when}",
                median(samples),
                reference,
                1 / 10,
                unit="s",
                budget="<= 1/10",
                spread=spread(samples) + " µs",
            )
            for when, samples in (("right after another", busy), ("after 50 ms of rest", rested))
        ]
    )
