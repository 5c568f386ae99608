"""Exact counters: in-process increments and absolute kernel counters in one table, without counting twice."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple, Protocol, runtime_checkable

from prometheus_client.core import CounterMetricFamily

_log = logging.getLogger("pyisolate.telemetry")

#: Distinct values of a label that comes from the user (policy names); later ones are counted under `OTHER`.
LABEL_VALUES_LIMIT = 1000
OTHER = "_other"

Labels = tuple[str, ...]


class DenialLabels(NamedTuple):
    """The labels of `pyisolate_denials_total`, in order."""

    capability: str
    code: str
    broker_decision: str
    kernel_decision: str
    mode: str
    policy: str


@runtime_checkable
class CounterSource(Protocol):
    """Absolute counts of refusals kept elsewhere, in the kernel's per-CPU counters for instance.

    Events whose `kernel_enforcer` is one of `enforcers` and that the kernel itself reported (`enforced`, `counted`) are
    taken to be among the counts, so they are not added again: capability, kernel decision and policy have to be called
    the same there. A value that goes down means that the source started anew.
    """

    @property
    def enforcers(self) -> Collection[str]:
        """Names of the enforcers whose refusals are counted; sources that share one have to share all."""
        ...

    def read(self) -> Mapping[DenialLabels, int]:
        """Return the counts since the source began."""
        ...


class CounterTable:
    """One counter family: labels to integer, thread-safe, never decreasing."""

    def __init__(
        self, name: str, documentation: str, labels: Iterable[str] = (), *, bounded: str | None = None
    ) -> None:
        self.name, self.documentation, self.labels = name, documentation, tuple(labels)
        self._bounded = self.labels.index(bounded) if bounded is not None else None
        self._known: set[str] = set()
        self._lock = threading.Lock()
        self._values: dict[Labels, float] = {} if self.labels else {(): 0}

    def add(self, labels: Labels = (), amount: float = 1) -> None:
        """Add to one series; `labels` in the order of the constructor."""
        if self._bounded is not None:
            labels = self._bound(labels)
        with self._lock:
            self._values[labels] = self._values.get(labels, 0) + amount

    def value(self, *labels: str) -> float:
        """Return one series (0 where it does not exist)."""
        with self._lock:
            return self._values.get(labels, 0)

    def total(self) -> float:
        """Return the sum over all series."""
        with self._lock:
            return sum(self._values.values())

    def values(self) -> dict[Labels, float]:
        """Return a copy of all series."""
        with self._lock:
            return dict(self._values)

    def family(self) -> CounterMetricFamily:
        """Return the family as prometheus-client exposes it."""
        family = CounterMetricFamily(self.name, self.documentation, labels=self.labels)
        for labels, value in self.values().items():
            family.add_metric(labels, value)
        return family

    def _bound(self, labels: Labels) -> Labels:
        index = self._bounded
        assert index is not None
        value = labels[index]
        if value in self._known:
            return labels
        if len(self._known) < LABEL_VALUES_LIMIT:
            self._known.add(value)
            return labels
        return (*labels[:index], OTHER, *labels[index + 1 :])

    def _reset_after_fork(self) -> None:
        self._lock = threading.Lock()
        self._values = {} if self.labels else {(): 0}


_Coarse = tuple[str, str, str]


def _coarse(labels: DenialLabels) -> _Coarse:
    """Return what kernel counter and event surely agree on; the rest may be known to one of them only."""
    return labels.capability, labels.kernel_decision, labels.policy


class SourceLedger:
    """Brings the absolute counts of one enforcer's sources and the events of the same refusals into one table.

    What a source has counted and no event has told of yet is added under the source's own labels and remembered as
    credit; an event that comes later uses the credit up instead of adding. So the totals are exact and no series
    ever falls, whichever of the two arrives first. A source must be added before it can count anything.
    """

    def __init__(self, table: CounterTable) -> None:
        self._table = table
        self._lock = threading.Lock()
        self._sources: list[tuple[CounterSource, dict[DenialLabels, int]]] = []
        self._kernel: defaultdict[_Coarse, int] = defaultdict(int)
        self._added: defaultdict[_Coarse, int] = defaultdict(int)
        self._credit: defaultdict[_Coarse, int] = defaultdict(int)

    def add_source(self, source: CounterSource) -> None:
        """Take counts from `source` from now on."""
        with self._lock:
            self._sources.append((source, {}))

    def remove_source(self, source: CounterSource) -> None:
        """Forget `source`; what it has counted stays. Its events must have been delivered or lost by now."""
        with self._lock:
            self._sources = [entry for entry in self._sources if entry[0] is not source]
            if not self._sources:  # what is still owed to events that never came must not be taken from later ones
                for totals in (self._kernel, self._added, self._credit):
                    totals.clear()

    def event(self, labels: DenialLabels, count: int) -> None:
        """Count an event of this enforcer."""
        key = _coarse(labels)
        with self._lock:
            used = min(count, self._credit[key])
            self._credit[key] -= used
            if self._sources:
                self._added[key] += count - used
        if count > used:
            self._table.add(labels, count - used)

    def pull(self) -> None:
        """Read the sources and add what no event told of. A source that fails to read is logged and skipped."""
        with self._lock:
            missing = [item for source, last in self._sources for item in self._read(source, last)]
        for labels, amount in missing:
            self._table.add(labels, amount)

    def _read(self, source: CounterSource, last: dict[DenialLabels, int]) -> list[tuple[DenialLabels, int]]:
        try:
            readings = source.read()
        except Exception:  # a supervisor that is being torn down must not cost the others their scrape
            _log.warning("counter source %s: read failed", "+".join(source.enforcers), exc_info=True)
            return []
        missing: list[tuple[DenialLabels, int]] = []
        steps: dict[DenialLabels, int] = {}
        for labels, value in readings.items():
            before = last.get(labels, 0)
            last[labels] = value
            if value != before:
                steps[labels] = value - before if value > before else value
                self._kernel[_coarse(labels)] += steps[labels]
        for labels, step in steps.items():
            key = _coarse(labels)
            amount = min(step, self._kernel[key] - self._added[key])
            if amount > 0:
                self._added[key] += amount
                self._credit[key] += amount
                missing.append((labels, amount))
        return missing
