"""From the refusal to `get_denial_events()`: p99 at most 5 ms, as another host thread sees it while the guest runs."""

from __future__ import annotations

import threading
import time

import pyisolate

from .figures import Figure, Outcome, Settings
from .measure import median, quantile

#: native code is refused too
POLICY = pyisolate.Policy.preset("compute").allow_import("ctypes")
BUDGET_S = 5e-3
#: Between two refusals (seconds): the guest does other things.
PAUSE_S = 0.002
_POLL_S = 0.0002
SOURCE = {
    "broker": """
import time
def refused(count, pause):
    stamps = []
    for number in range(count):
        stamps.append(time.monotonic_ns())
        try:
            open(f"/etc/secret-{number}")
        except PermissionError:
            pass
        time.sleep(pause)
    return stamps
""",
    "kernel": """
import ctypes, time
unshare = ctypes.CDLL(None).unshare
def refused(count, pause):
    stamps = []
    for number in range(count):
        stamps.append(time.monotonic_ns())
        unshare(0x10000000)
        time.sleep(pause)
    return stamps
""",
}


def run(settings: Settings) -> Outcome:
    """Stamp each refusal in the guest (one clock for both), and poll the events from a second thread."""
    count = settings.rounds(1000, 300)
    figures = []
    with pyisolate.Supervisor(pool_size=1) as supervisor:
        for layer, source in SOURCE.items():
            delays = _delays(supervisor, source, count)
            p99 = quantile(delays, 0.99)
            figures.append(
                Figure(
                    what=f"denial to event, p99, refused by the {layer}",
                    value=p99,
                    unit="s",
                    spread=f"p50 {median(delays) * 1e6:.0f}, max {max(delays) * 1e6:.0f} µs, n={count}",
                    budget="<= 5 ms",
                    met=p99 <= BUDGET_S,
                    note=f"the reader polls every {_POLL_S * 1e6:.0f} µs",
                )
            )
    return Outcome(figures=figures)


def _delays(supervisor: pyisolate.Supervisor, source: str, count: int) -> list[float]:
    seen: list[int] = []
    done = threading.Event()
    with supervisor.spawn("benchmark", POLICY, limits={"wall": "60s", "cpu": "60s"}) as sandbox:
        sandbox.exec(source)

        def watch() -> None:
            while len(seen) < count and not done.is_set():
                total = sum(event.count for event in sandbox.get_denial_events())
                seen.extend([time.monotonic_ns()] * (total - len(seen)))
                time.sleep(_POLL_S)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            stamps = sandbox.call("refused", count, PAUSE_S)
            deadline = time.monotonic() + 5
            while len(seen) < count and time.monotonic() < deadline:
                time.sleep(0.01)
        finally:
            done.set()
            watcher.join()
    if len(seen) != count:
        raise AssertionError(f"denial to event: {count} refusals, {len(seen)} events")
    return [(shown - stamp) / 1e9 for stamp, shown in zip(stamps, seen, strict=True)]
