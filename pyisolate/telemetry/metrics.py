"""The Prometheus metrics: one registry of its own, counters that outlive their sandboxes, gauges pulled on scrape.

No path, process id, address or sandbox id is ever a label. A forked child starts from zero, with no supervisors.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from bisect import bisect_left
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import msgspec
from prometheus_client.core import CollectorRegistry, CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from .counters import CounterTable, DenialLabels
from .event import DenialEvent
from .merge import disagree

if TYPE_CHECKING:
    from ..kernel.enforcer import EnforcementReport

_log = logging.getLogger("pyisolate.telemetry")

SPAWN_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
#: Where events can get lost: ring buffers, the guest's own queue, the ring of a store, slow sinks, the audit log.
LOST_STAGES = ("kernel", "guest", "store", "sink", "audit")
#: Sandboxes whose end is remembered, so that a snapshot taken just before it is not counted again.
_EXITS_REMEMBERED = 10_000
_INFO_LABELS = ("isolation", "enforcement", "kernel", "fs", "net", "process", "complete")


class SandboxRow(msgspec.Struct, frozen=True, kw_only=True):
    """One live sandbox, as a supervisor's `snapshot` tells of it. `cpu_s` is its total so far.

    `sandbox_id` is never shown; it keeps the processor time exact when a scrape meets a sandbox's end.
    """

    sandbox_id: str
    policy: str
    isolation: str = "process"
    state: str = "running"
    cpu_s: float = 0.0
    memory_bytes: int = 0


@runtime_checkable
class SnapshotSource(Protocol):
    """A supervisor, as far as the metrics need it."""

    def snapshot(self) -> Sequence[SandboxRow]:
        """Return one row per live sandbox; cheap, called on every scrape."""
        ...


@runtime_checkable
class AlertStates(Protocol):
    """An alert engine, as far as the metrics need it."""

    def active(self) -> Mapping[str, bool]:
        """Return every rule's name and whether it is firing."""
        ...


class Metrics:
    """Every metric of one process. `registry` is what to expose."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self.denials = CounterTable(
            "pyisolate_denials_total",
            "Refused (or, in monitor mode, would-be refused) operations.",
            DenialLabels._fields,
            bounded="policy",
        )
        self.lost = CounterTable(
            "pyisolate_denial_events_lost_total",
            "Denial events lost before somebody could read them, by where; the denials themselves are still counted.",
            ("stage",),
        )
        for stage in LOST_STAGES:
            self.lost.add((stage,), 0)  # a series that is there from the start: its first loss is an increase
        self.suppressed = CounterTable(
            "pyisolate_denial_events_suppressed_total",
            "Denial events that the rate limit kept from audit log and sinks; counted, and summed up there later.",
            ("policy",),
            bounded="policy",
        )
        self.exits = CounterTable("pyisolate_sandbox_exits_total", "Sandboxes that ended.", ("reason",))
        self.reloads = CounterTable("pyisolate_policy_reloads_total", "Policy reloads.", ("result",))
        self.audit_errors = CounterTable("pyisolate_audit_errors_total", "Failed writes to an audit log or event sink.")
        self.webhook_dropped = CounterTable(
            "pyisolate_webhook_dropped_total", "Events that a webhook sink gave up on.", ("reason",)
        )
        self.drift = CounterTable(
            "pyisolate_policy_drift_total",
            "Operations that one layer allowed and the other refused, by how the kernel's decision became known.",
            ("capability", "evaluation"),
        )
        self._closed_cpu = CounterTable(
            "pyisolate_sandbox_cpu_seconds_total", "Processor time used by sandboxes.", ("policy",), bounded="policy"
        )
        self._spawn = _Histogram(SPAWN_BUCKETS)
        self._lock = threading.RLock()
        self._cpu: dict[str, tuple[str, float]] = {}
        self._shown_cpu: dict[str, float] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._snapshots: list[weakref.ref[Any]] = []
        self._alerts: list[weakref.ref[Any]] = []
        self._last_report: EnforcementReport | None = None
        self._info: dict[tuple[str, ...], None] = {}
        self.registry.register(_Collector(self))
        _INSTANCES.add(self)

    # -- what the data path adds

    def denial(self, event: DenialEvent) -> None:
        """Count one event, `count` operations strong."""
        labels = DenialLabels(
            event.capability.value,
            event.code.value,
            event.broker_decision.value,
            event.kernel_decision.value,
            event.mode.value,
            event.policy,
        )
        self.denials.add(labels, event.count)
        if disagree(event):
            self.drift.add((event.capability.value, event.kernel_evaluation.value), event.count)

    def spawned(self, seconds: float) -> None:
        """Observe how long a `spawn` took."""
        self._spawn.observe(seconds)

    def exited(self, reason: str, policy: str, cpu_s: float = 0.0, sandbox_id: str = "") -> None:
        """Count a sandbox's end and keep its processor time; call once per sandbox, with its final reading."""
        self.exits.add((reason,))
        with self._lock:
            if sandbox_id:
                self._ended[sandbox_id] = None
            while len(self._ended) > _EXITS_REMEMBERED:
                self._ended.popitem(last=False)
            _, seen = self._cpu.pop(sandbox_id, (policy, 0.0))
        self._closed_cpu.add((policy,), max(seen, cpu_s))

    # -- what is pulled on scrape

    def add_supervisor(self, source: SnapshotSource) -> None:
        """Pull gauges from `source` on every scrape, for as long as it lives (held weakly)."""
        with self._lock:
            self._snapshots.append(weakref.ref(source))

    def remove_supervisor(self, source: SnapshotSource) -> None:
        """Stop pulling from `source`; its counts stay."""
        with self._lock:
            self._snapshots = [ref for ref in self._snapshots if ref() not in (source, None)]

    def add_alerts(self, engine: AlertStates) -> None:
        """Show the engine's rules as `pyisolate_alert_active` (held weakly)."""
        with self._lock:
            if all(ref() is not engine for ref in self._alerts):
                self._alerts.append(weakref.ref(engine))

    def set_enforcement(self, report: EnforcementReport) -> None:
        """Show who enforces what, as `pyisolate_enforcement_info`."""
        if report is self._last_report:
            return
        self._last_report = report
        values = enforcement_labels(report)
        labels = tuple(values[name] for name in _INFO_LABELS)
        with self._lock:
            self._info[labels] = None

    def _rows(self) -> list[SandboxRow]:
        rows: list[SandboxRow] = []
        for ref in list(self._snapshots):
            source = ref()
            if source is None:
                continue
            try:
                rows.extend(source.snapshot())
            except Exception:
                _log.warning("supervisor snapshot failed", exc_info=True)
        return rows

    def _collect(self) -> Iterator[Metric]:
        rows = self._rows()  # first: supervisors have told by then what their kernels counted
        tables = (self.denials, self.lost, self.suppressed, self.exits, self.reloads, self.audit_errors)
        for table in (*tables, self.webhook_dropped, self.drift):
            yield table.family()
        yield self._cpu_family(rows)
        yield from _gauges(rows)
        yield self._spawn.family("pyisolate_sandbox_spawn_seconds", "Time from spawn to a usable sandbox.")
        info = GaugeMetricFamily("pyisolate_enforcement_info", "Who enforces what; always 1.", labels=_INFO_LABELS)
        for labels in list(self._info):
            info.add_metric(labels, 1)
        yield info
        active = GaugeMetricFamily("pyisolate_alert_active", "Whether an alert rule is firing.", labels=("alert",))
        for name, firing in self._alert_states().items():
            active.add_metric((name,), 1 if firing else 0)
        yield active

    def _alert_states(self) -> dict[str, bool]:
        states: dict[str, bool] = {}
        for ref in list(self._alerts):
            engine = ref()
            if engine is not None:
                for name, firing in engine.active().items():
                    states[name] = firing or states.get(name, False)
        return states

    def _cpu_family(self, rows: Iterable[SandboxRow]) -> CounterMetricFamily:
        totals: defaultdict[str, float] = defaultdict(float)
        with self._lock:
            for row in rows:
                if row.sandbox_id not in self._ended:
                    _, seen = self._cpu.get(row.sandbox_id, ("", 0.0))
                    self._cpu[row.sandbox_id] = (row.policy, max(seen, row.cpu_s))
            for policy, seconds in self._cpu.values():
                totals[policy] += seconds
            for labels, seconds in self._closed_cpu.values().items():
                totals[labels[0]] += seconds
            for policy, seconds in totals.items():  # a counter never falls, whatever order the readings came in
                self._shown_cpu[policy] = max(seconds, self._shown_cpu.get(policy, 0.0))
            shown = dict(self._shown_cpu)
        family = CounterMetricFamily(self._closed_cpu.name, self._closed_cpu.documentation, labels=("policy",))
        for policy, seconds in shown.items():
            family.add_metric((policy,), seconds)
        return family

    def _reset_after_fork(self) -> None:
        self._lock = threading.RLock()
        for value in list(vars(self).values()):
            if isinstance(value, CounterTable | _Histogram):
                value._reset_after_fork()
        self._cpu, self._ended, self._info = {}, OrderedDict(), {}
        self._last_report = None
        self._snapshots, self._shown_cpu = [], {}
        for stage in LOST_STAGES:
            self.lost.add((stage,), 0)


class _Collector:
    """What the registry sees: everything is computed when it is scraped."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return self._metrics._collect()


class _Histogram:
    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._reset_after_fork()

    def observe(self, value: float) -> None:
        with self._lock:
            self._counts[bisect_left(self._bounds, value)] += 1
            self._sum += value

    def family(self, name: str, documentation: str) -> HistogramMetricFamily:
        with self._lock:
            counts, total = list(self._counts), self._sum
        buckets: list[tuple[str, float]] = []
        running = 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), counts, strict=True):
            running += count
            buckets.append((bound, running))
        family = HistogramMetricFamily(name, documentation)
        family.add_metric((), buckets, total)
        return family

    def _reset_after_fork(self) -> None:
        self._lock = threading.Lock()
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0


def _gauges(rows: Iterable[SandboxRow]) -> Iterator[Metric]:
    states: defaultdict[tuple[str, str], int] = defaultdict(int)
    memory: defaultdict[str, int] = defaultdict(int)
    for row in rows:
        states[row.isolation, row.state] += 1
        memory[row.policy] += row.memory_bytes
    family = GaugeMetricFamily("pyisolate_sandboxes", "Live sandboxes.", labels=("isolation", "state"))
    for labels, count in states.items():
        family.add_metric(labels, count)
    yield family
    family = GaugeMetricFamily("pyisolate_sandbox_memory_bytes", "Memory of live sandboxes.", labels=("policy",))
    for policy, size in memory.items():
        family.add_metric((policy,), size)
    yield family


def enforcement_labels(report: EnforcementReport) -> dict[str, str]:
    """Return the labels of `pyisolate_enforcement_info` for one report."""

    def deciders(prefix: str) -> str:
        names = [e for s in report.capabilities if s.capability.value.startswith(prefix) for e in s.enforcers]
        return "+".join(dict.fromkeys(names)) or "none"

    return {
        "isolation": report.isolation,
        "enforcement": report.enforcement,
        "kernel": report.kernel,
        "fs": deciders("fs."),
        "net": deciders("net."),
        "process": deciders("process."),
        "complete": str(report.complete).lower(),
    }


_INSTANCES: weakref.WeakSet[Metrics] = weakref.WeakSet()

#: The process's metrics; supervisors use these unless they are given their own.
METRICS = Metrics()
registry = METRICS.registry


def _after_fork() -> None:
    for metrics in list(_INSTANCES):
        metrics._reset_after_fork()


os.register_at_fork(after_in_child=_after_fork)

from .exposition import MetricsServer, asgi_app, serve_metrics, wsgi_app  # noqa: E402 - they default to `registry`

__all__ = [
    "METRICS",
    "DenialLabels",
    "Metrics",
    "MetricsServer",
    "SandboxRow",
    "SnapshotSource",
    "asgi_app",
    "enforcement_labels",
    "registry",
    "serve_metrics",
    "wsgi_app",
]
