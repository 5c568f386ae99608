"""A flood of 1,000,000 denials from one guest: counters exactly equal, memory flat."""

from __future__ import annotations

import os
import threading
import time

import pyisolate
from pyisolate.telemetry.metrics import Metrics
from pyisolate.telemetry.recorder import Recorder

from .figures import Figure, Outcome, Settings

#: native code is refused too
POLICY = pyisolate.Policy.preset("compute").allow_import("ctypes")
FLOOD = 1_000_000
QUICK_FLOOD = 50_000
#: Growth of the host's resident memory that still counts as flat: one malloc arena's worth, not a share of the flood.
FLAT_BYTES = 8_000_000
SOURCES = {
    "raw system calls": """
import ctypes
unshare = ctypes.CDLL(None).unshare
def flood(count):
    for _ in range(count):
        unshare(0x10000000)
""",
    "the broker, one file": """
def flood(count):
    for _ in range(count):
        try:
            open("/etc/shadow")
        except PermissionError:
            pass
""",
    "the broker, ever new files": """
def flood(count):
    for number in range(count):
        try:
            open(f"/etc/secret-{number}")
        except PermissionError:
            pass
""",
}


def run(settings: Settings) -> Outcome:
    """Flood from a guest in three ways, and compare three counts with what the guest did."""
    outcome = Outcome()
    metrics = Metrics()
    with pyisolate.Supervisor(pool_size=1, recorder=Recorder(metrics=metrics)) as supervisor:
        for way, source in SOURCES.items():
            share = 10 if way.endswith("new files") else 1
            outcome.figures += _flood(supervisor, metrics, way, source, settings.rounds(FLOOD, QUICK_FLOOD) // share)
    return outcome


def _flood(supervisor: pyisolate.Supervisor, metrics: Metrics, way: str, source: str, count: int) -> list[Figure]:
    with supervisor.spawn("benchmark", POLICY, limits={"wall": "10m", "cpu": "10m"}) as sandbox:
        sandbox.exec(source)
        first = count // 10  # fills the rings and the store
        sandbox.call("flood", first)
        sandbox.get_denial_events()
        counted = _denials(metrics) - first
        resident = _resident_bytes()
        with _Peak() as peak:
            started = time.perf_counter()
            sandbox.call("flood", count - first)
            took = time.perf_counter() - started
        events = sandbox.get_denial_events()
        stored = sum(event.count for event in events) + sandbox.stats.events_lost
        counters = {
            "metric": _denials(metrics) - counted,
            "sandbox.stats": sandbox.stats.denials,
            "stored + counted as lost": stored,
        }
    growth = peak.bytes - resident
    wrong = {name: value for name, value in counters.items() if value != count}
    return [
        Figure(
            what=f"flood of {count:,} by {way}: denials counted",
            value=counters["metric"],
            unit="",
            spread=f"{(count - first) / took:,.0f}/s, {took:.1f} s",
            budget="exact",
            met=not wrong,
            note=", ".join(f"{name} {value:,}" for name, value in counters.items()) if wrong else "",
        ),
        Figure(
            what="  host memory growth at its peak",
            value=growth,
            unit="B",
            spread=f"from {resident / 1e6:.0f} MB",
            budget="flat (<= 8 MB)",
            met=growth <= FLAT_BYTES,
        ),
    ]


def _denials(metrics: Metrics) -> int:
    return int(
        sum(
            sample.value
            for family in metrics.registry.collect()
            for sample in family.samples
            if sample.name == "pyisolate_denials_total"
        )
    )


class _Peak:
    """Samples the resident memory of this process while something runs."""

    def __init__(self) -> None:
        self.bytes = _resident_bytes()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def _sample(self) -> None:
        while not self._done.wait(0.05):
            self.bytes = max(self.bytes, _resident_bytes())

    def __enter__(self) -> _Peak:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._done.set()
        self._thread.join()
        self.bytes = max(self.bytes, _resident_bytes())


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
