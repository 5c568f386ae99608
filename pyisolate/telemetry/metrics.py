"""The Prometheus metrics: one registry of its own, counters that outlive their sandboxes, gauges pulled on scrape.

No path, process id, address or sandbox id is ever a label. A forked child starts from zero, with no supervisors.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, runtime_checkable

from ..distribution import VERSION
from ..native.forked import renew
from .counters import CounterTable, DenialLabels, HistogramTable
from .event import DenialEvent
from .merge import disagree
from .readings import Readings
from .rows import CellState as CellState
from .rows import SandboxRow as SandboxRow
from .worker_threads import Timer

if TYPE_CHECKING:
    from prometheus_client.core import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from ..enforcement import EnforcementReport
    from .shared_metrics import SharedMetrics

_log = logging.getLogger("pyisolate.telemetry")

SPAWN_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
EXEC_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 60.0, 300.0)
#: Where a spawned sandbox's cell came from: confined ahead for its policy, warm, or forked because none was ready.
SpawnSource = Literal["standby", "warm", "forked"]
#: How a request ended: a value, an exception of the guest's, a refusal it did not catch, a limit, the end of its cell,
#: or the caller's: it was interrupted, or its sandbox was closed.
RequestOutcome = Literal["returned", "raised", "refused", "limit", "died", "abandoned"]
#: Where events can get lost: ring buffers, the guest's own queue, the ring of a store, slow sinks, the audit log; and
#: look-ups that a flood left no place for, which may have been of names that are nowhere.
LOST_STAGES = ("kernel", "guest", "store", "sink", "audit", "lookup")
#: Sandboxes whose end is remembered, so that a snapshot taken just before it is not counted again.
_EXITS_REMEMBERED = 10_000
#: Gauges and processor time reach other processes of the service this often (seconds); counters do at once.
PUBLISH_INTERVAL_S = 5.0
_INFO_LABELS = ("isolation", "enforcement", "kernel", "fs", "net", "process", "complete")


@runtime_checkable
class SnapshotSource(Protocol):
    """A supervisor, as far as the metrics need it."""

    def snapshot(self) -> Sequence[SandboxRow]:
        """Return one row per live sandbox; cheap, called on every scrape."""
        ...

    def cells(self) -> Mapping[CellState, int]:
        """Return how many cells wait for a `spawn`, by state."""
        ...


@runtime_checkable
class AlertStates(Protocol):
    """An alert engine, as far as the metrics need it."""

    def active(self) -> Mapping[str, bool]:
        """Return every rule's name and whether it is firing."""
        ...


class Metrics:
    """Every metric of one process (`registry`). `exposed` is what to show a scraper.

    The two differ where `shared` is given: then `exposed` is the sum over the processes that share it.
    """

    def __init__(self, shared: SharedMetrics | None = None) -> None:
        self._registry: CollectorRegistry | None = None
        self._exposed: CollectorRegistry | None = None
        self._shared, self._timer, self._ticking = shared, Timer(), False
        self.denials = CounterTable(
            "pyisolate_denials_total",
            "Refused (or, in monitor mode, would-be refused) operations.",
            DenialLabels._fields,
            bounded="policy",
        )
        self.lost = CounterTable(
            "pyisolate_denial_events_lost_total",
            "Denial events lost before they could be read, by where; the denials themselves are still counted.",
            ("stage",),
        )
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
        self.questions = CounterTable(
            "pyisolate_questions_total",
            "Refused operations that the host was asked about, by what came of it.",
            ("policy", "answer"),
            bounded="policy",
        )
        self.host_calls = CounterTable(
            "pyisolate_host_calls_total",
            "Calls of functions of the host by guests, by what came of them.",
            ("policy", "outcome"),
            bounded="policy",
        )
        self.egress_requests = CounterTable(
            "pyisolate_egress_requests_total",
            "Requests and tunnels that guests asked the egress proxy for, by what came of them.",
            ("policy", "outcome"),
            bounded="policy",
        )
        self.egress_bytes = CounterTable(
            "pyisolate_egress_bytes_total",
            "Bytes that the egress proxy carried between guests and hosts.",
            ("policy", "direction"),
            bounded="policy",
        )
        self.drift = CounterTable(
            "pyisolate_policy_drift_total",
            "Operations that one layer allowed and the other refused, by how the kernel's decision became known.",
            ("capability", "evaluation"),
        )
        #: By the field of a sandbox's row.
        self._readings = {
            "cpu_s": Readings("pyisolate_sandbox_cpu_seconds_total", "Processor time used by sandboxes."),
            "host_held_s": Readings(
                "pyisolate_host_held_seconds_total",
                "How long guests past their budget of the host's time were kept waiting.",
            ),
        }
        self.pool_spawns = CounterTable(
            "pyisolate_pool_spawns_total", "Sandboxes spawned in a cell, by where the cell came from.", ("source",)
        )
        self._spawn = HistogramTable(
            "pyisolate_sandbox_spawn_seconds", "Time from spawn to a usable sandbox.", SPAWN_BUCKETS
        )
        self._requests = HistogramTable(
            "pyisolate_exec_seconds",
            "Time that requests of sandboxes ran, by how they ended.",
            EXEC_BUCKETS,
            ("outcome",),
        )
        self._lock = threading.RLock()
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._snapshots: list[weakref.ref[Any]] = []
        self._alerts: list[weakref.ref[Any]] = []
        self._last_report: EnforcementReport | None = None
        self._info: dict[tuple[str, ...], None] = {}
        self._mirror()
        self._begin_series()
        renew(self)

    @property
    def registry(self) -> CollectorRegistry:
        """What this process counts, for prometheus-client to show."""
        if (found := self._registry) is None:
            found = self._registry = _registry(self._collect)
        return found

    @property
    def exposed(self) -> CollectorRegistry:
        """What a scraper is shown: that, or the sum over the processes that share it."""
        if self._shared is None:
            return self.registry
        if (found := self._exposed) is None:
            found = self._exposed = _registry(self._collect_shared)
        return found

    def _tables(self) -> list[CounterTable | HistogramTable]:
        return [*self._counted(), *(one.ended for one in self._readings.values())]

    def _counted(self) -> list[CounterTable | HistogramTable]:
        return [value for value in vars(self).values() if isinstance(value, CounterTable | HistogramTable)]

    def _mirror(self) -> None:
        """Have every table add to what is shared as well; what is read from sandboxes follows by `_publish`."""
        for table in self._counted():
            table.mirror = self._shared

    def _begin_series(self) -> None:
        """Show what can be counted from the start: its first count is an increase."""
        for stage in LOST_STAGES:
            self.lost.add((stage,), 0)
        for source in get_args(SpawnSource):
            self.pool_spawns.add((source,), 0)

    # -- what the data path adds

    def denial(self, event: DenialEvent) -> None:
        """Count one event, `count` operations strong."""
        labels = DenialLabels(
            str(event.capability),
            str(event.code),
            str(event.broker_decision),
            str(event.kernel_decision),
            str(event.mode),
            event.policy,
        )
        self.denials.add(labels, event.count, {"event_id": event.event_id})
        if disagree(event):
            self.drift.add((event.capability.value, event.kernel_evaluation.value), event.count)

    def spawned(self, seconds: float) -> None:
        """Observe how long a `spawn` took."""
        self._spawn.observe(seconds)

    def requested(self, seconds: float, outcome: RequestOutcome) -> None:
        """Observe how long a request of a sandbox ran."""
        self._requests.observe(seconds, (outcome,))

    def exited(
        self, reason: str, policy: str, cpu_s: float = 0.0, sandbox_id: str = "", host_held_s: float = 0.0
    ) -> None:
        """Count a sandbox's end and keep what it used; call once per sandbox, with its final readings."""
        self.exits.add((reason,))
        last = {"cpu_s": cpu_s, "host_held_s": host_held_s}
        with self._lock:
            if sandbox_id:
                self._ended[sandbox_id] = None
            while len(self._ended) > _EXITS_REMEMBERED:
                self._ended.popitem(last=False)
            for field, one in self._readings.items():
                one.end(sandbox_id, policy, last[field])

    # -- what is pulled on scrape

    def add_supervisor(self, source: SnapshotSource) -> None:
        """Pull gauges from `source` on every scrape, for as long as it lives (held weakly)."""
        with self._lock:
            self._snapshots.append(weakref.ref(source))
        if self._shared is not None:
            for table in self._tables():
                table.show_in_mirror()
            self._tick()

    def remove_supervisor(self, source: SnapshotSource) -> None:
        """Stop pulling from `source`; its counts stay."""
        with self._lock:
            self._snapshots = [ref for ref in self._snapshots if ref() not in (source, None)]
        self._publish()

    def _tick(self) -> None:
        """Publish now and every few seconds, for as long as a supervisor lives."""
        self._publish()
        with self._lock:
            again = any(ref() is not None for ref in self._snapshots)
            if again and not self._ticking:
                self._ticking = True
                self._timer.call_in(PUBLISH_INTERVAL_S, self._next_tick)

    def _next_tick(self) -> None:
        self._ticking = False
        self._tick()

    def _publish(self) -> None:
        if self._shared is not None:
            read = [one.ended.name.removesuffix("_total") for one in self._readings.values()]
            self._shared.publish(list(self._collect()), read)

    def _collect_shared(self) -> Iterator[Metric]:
        self._publish()
        assert self._shared is not None
        return self._collect() if self._shared.broken else self._shared.collect()

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

    def _read(self) -> tuple[list[SandboxRow], dict[CellState, int]]:
        """Return the rows of all supervisors, and the sum of their cells."""
        rows: list[SandboxRow] = []
        cells: dict[CellState, int] = dict.fromkeys(get_args(CellState), 0)
        for ref in list(self._snapshots):
            source = ref()
            if source is None:
                continue
            try:
                rows.extend(source.snapshot())
                for state, count in source.cells().items():
                    cells[state] += count
            except Exception:
                _log.warning("supervisor snapshot failed", exc_info=True)
        return rows, cells

    def _collect(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        from .gauges import gauges

        rows, cells = self._read()  # first: supervisors have reported by then what their kernels counted
        tables = (self.denials, self.lost, self.suppressed, self.exits, self.reloads, self.audit_errors)
        own = (self.webhook_dropped, self.drift, self.host_calls, self.questions, self.pool_spawns)
        for table in (*tables, *own, self.egress_requests, self.egress_bytes):
            yield table.family()
        with self._lock:
            for row in rows:
                if row.sandbox_id not in self._ended:
                    for field, one in self._readings.items():
                        one.read(row.sandbox_id, row.policy, getattr(row, field))
        for one in self._readings.values():
            yield one.family()
        yield from gauges(rows, cells)
        yield self._spawn.family()
        yield self._requests.family()
        info = GaugeMetricFamily("pyisolate_enforcement_info", "Who enforces what; always 1.", labels=_INFO_LABELS)
        for labels in list(self._info):
            info.add_metric(labels, 1)
        yield info
        build = GaugeMetricFamily("pyisolate_build_info", "What runs here; always 1.", labels=("version", "python"))
        build.add_metric((VERSION, platform.python_version()), 1)
        yield build
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

    def close(self) -> None:
        """Stop publishing to other processes, and let go of what is shared with them."""
        self._timer.close()
        if self._shared is not None:
            self._shared.close()

    def renew_after_fork(self) -> None:
        """Start at zero with locks of its own: what was counted is the parent's to show."""
        self._lock = threading.RLock()
        self._timer, self._ticking = Timer(), False
        if self._shared is not None:
            self._shared.renew_after_fork()
        for table in self._tables():
            table.renew_after_fork()
        for one in self._readings.values():
            one.renew_after_fork()
        self._ended, self._info, self._snapshots = OrderedDict(), {}, []
        self._last_report = None
        self._begin_series()


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


def _registry(collect: Callable[[], Iterator[Metric]]) -> CollectorRegistry:
    from prometheus_client.core import CollectorRegistry

    from .gauges import Collector

    made = CollectorRegistry(auto_describe=False)
    made.register(Collector(collect))
    return made


def _shared() -> SharedMetrics | None:
    """Return where this process shares its metrics, None where the environment names no directory."""
    if not os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        return None
    from .shared_metrics import from_environment

    return from_environment()


#: The process's metrics; supervisors use these unless they are given their own.
METRICS = Metrics(_shared())
