"""Thread isolation, create + first exec + close: at most 3 x a bare thread."""

from __future__ import annotations

import threading
import time

import pyisolate

from .figures import Outcome, Reference, Settings, at_most_ratio
from .measure import median, spread, take_turns

SOURCE = "x = 1"


def run(settings: Settings) -> Outcome:
    """Compare a sandbox thread with `threading.Thread`: create, run the same source, join."""
    parts: dict[str, list[float]] = {"create": [], "exec": [], "close": []}
    with pyisolate.Supervisor(pool_size=0) as supervisor:
        policy = pyisolate.Policy.preset("compute")

        def ours() -> float:
            t0 = time.perf_counter()
            sandbox = supervisor.spawn("benchmark", policy, isolation="thread", enforcement="best_effort")
            t1 = time.perf_counter()
            sandbox.exec(SOURCE)
            t2 = time.perf_counter()
            sandbox.close()
            t3 = time.perf_counter()
            for name, took in (("create", t1 - t0), ("exec", t2 - t1), ("close", t3 - t2)):
                parts[name].append(took)
            return t3 - t0

        for _ in range(20):
            ours(), _bare()
        for samples in parts.values():
            samples.clear()
        sandboxed, bare = take_turns(settings.rounds(1000, 200), ours, _bare)
    figure = at_most_ratio(
        "thread isolation, create + first exec + close",
        median(sandboxed),
        Reference("threading.Thread, start + exec + join", median(bare)),
        3.0,
        unit="s",
        budget="<= 3x",
        spread=spread(sandboxed) + " µs",
        note=", ".join(f"{name} {median(samples) * 1e6:.0f} µs" for name, samples in parts.items()),
    )
    return Outcome(figures=[figure])


def _bare() -> float:
    started = time.perf_counter()
    thread = threading.Thread(target=exec, args=(SOURCE, {}))
    thread.start()
    thread.join()
    return time.perf_counter() - started
