"""Thread isolation, create + first exec + close: at most 2.5 x a bare thread, both after the same rest."""

from __future__ import annotations

import threading
import time

import pyisolate

from .figures import Outcome, Reference, Settings, at_most_ratio
from .measure import median, spread, take_turns

SOURCE = "x = 1"
#: Before each side: by then a thread that stands by for the policy has taken the place of the last one (seconds).
_REST_S = 0.004


def run(settings: Settings) -> Outcome:
    """Compare a sandbox thread with `threading.Thread`: create, run the same source, join."""
    parts: dict[str, list[float]] = {"create": [], "exec": [], "close": []}
    with pyisolate.Supervisor(pool_size=0) as supervisor:
        policy = pyisolate.Policy.preset("compute")

        def ours() -> float:
            time.sleep(_REST_S)
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
        2.5,
        unit="s",
        budget="<= 2.5x",
        spread=spread(sandboxed) + " µs",
        note=", ".join(f"{name} {median(samples) * 1e6:.0f} µs" for name, samples in parts.items()),
    )
    return Outcome(figures=[figure])


def _bare() -> float:
    time.sleep(_REST_S)
    started = time.perf_counter()
    thread = threading.Thread(target=exec, args=(SOURCE, {}))
    thread.start()
    thread.join()
    return time.perf_counter() - started
