"""Exact counters and histograms with labels, as prometheus-client exposes them.

Each series bears when it began (`_created`), so that its first count is an increase for a server that reads that, and
what was counted last as an exemplar. `PROMETHEUS_DISABLE_CREATED_SERIES` leaves the former out, as it does for
prometheus-client's own. That is imported when something is shown: with its HTTP server and client it takes 25 ms.
"""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

#: Distinct values of a label that comes from the user (policy names); later ones are counted under `OTHER`.
LABEL_VALUES_LIMIT = 1000
OTHER = "_other"

Labels = tuple[str, ...]


class Family(NamedTuple):
    """What all series of a family share: its kind (counter, histogram, gauge), name, text, and labels."""

    kind: str
    name: str
    documentation: str
    labels: Labels


class Mirror(Protocol):
    """Where the processes of one service write their counts, to be scraped as one."""

    def add(self, family: Family, sample: str, labels: Labels, amount: float, le: str | None = None) -> None:
        """Add to one sample (`le`: of this bucket) in what other processes can read."""
        ...


class DenialLabels(NamedTuple):
    """The labels of `pyisolate_denials_total`, in order."""

    capability: str
    code: str
    broker_decision: str
    kernel_decision: str
    mode: str
    policy: str


class CounterTable:
    """One counter family: labels to integer, thread-safe, never decreasing. `mirror` is added to as well."""

    def __init__(
        self, name: str, documentation: str, labels: Iterable[str] = (), *, bounded: str | None = None
    ) -> None:
        self.name, self.documentation, self.labels = name, documentation, tuple(labels)
        self.mirror: Mirror | None = None
        self._family = Family("counter", name.removesuffix("_total"), documentation, self.labels)
        self._bounded = self.labels.index(bounded) if bounded is not None else None
        self._known: set[str] = set()
        self._created: dict[Labels, float] = {}
        self._exemplars: dict[Labels, tuple[dict[str, str], float, float]] = {}
        self.renew_after_fork()

    def add(self, labels: Labels = (), amount: float = 1, exemplar: dict[str, str] | None = None) -> None:
        """Add to one series; `labels` in the order of the constructor, `exemplar` names what was counted."""
        if self._bounded is not None:
            labels = self._bound(labels)
        with self._lock:
            if labels not in self._values:
                self._created[labels] = time.time()
            self._values[labels] = self._values.get(labels, 0) + amount
            if exemplar is not None:
                self._exemplars[labels] = (exemplar, amount, time.time())
        if self.mirror is not None and amount:
            self.mirror.add(self._family, self.name, labels, amount)

    def show_in_mirror(self) -> None:
        """Show in the mirror what is zero, too."""
        if self.mirror is not None:
            for labels in self.values():
                self.mirror.add(self._family, self.name, labels, 0)

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
        from prometheus_client.core import CounterMetricFamily, Exemplar

        family = CounterMetricFamily(self.name, self.documentation, labels=self.labels)
        with self._lock:
            rows = [(one, value, self._created[one], self._exemplars.get(one)) for one, value in self._values.items()]
        for labels, value, created, kept in rows:
            exemplar = None if kept is None else Exemplar(*kept)
            family.add_metric(labels, value, created if shows_created() else None, exemplar=exemplar)
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

    def renew_after_fork(self) -> None:
        """Start at zero with a lock of its own."""
        self._lock = threading.Lock()
        self._values: dict[Labels, float] = {} if self.labels else {(): 0}
        self._created = dict.fromkeys(self._values, time.time())
        self._exemplars = {}


class HistogramTable:
    """One histogram family: labels to counts of seconds, thread-safe. `bounds` are the buckets' upper ends."""

    def __init__(self, name: str, documentation: str, bounds: Sequence[float], labels: Iterable[str] = ()) -> None:
        self.name, self.documentation, self.labels = name, documentation, tuple(labels)
        self.mirror: Mirror | None = None
        self._family = Family("histogram", name, documentation, self.labels)
        self._bounds = tuple(bounds)
        #: as prometheus-client writes them (utils.floatToGoString): all are below 1e6
        self._ends = (*map(repr, self._bounds), "+Inf")
        self.renew_after_fork()

    def observe(self, value: float, labels: Labels = ()) -> None:
        """Count one observation of `value` seconds."""
        bucket = bisect_left(self._bounds, value)
        with self._lock:
            if fresh := labels not in self._counts:
                self._begin(labels)
            self._counts[labels][bucket] += 1
            self._sums[labels] += value
        if self.mirror is not None:
            if fresh:
                self._show(labels)
            self.mirror.add(self._family, f"{self.name}_bucket", labels, 1, self._ends[bucket])
            self.mirror.add(self._family, f"{self.name}_sum", labels, value)

    def show_in_mirror(self) -> None:
        """Show in the mirror what is zero, too."""
        for labels in list(self._counts):
            self._show(labels)

    def _show(self, labels: Labels) -> None:
        if self.mirror is not None:
            for end in self._ends:
                self.mirror.add(self._family, f"{self.name}_bucket", labels, 0, end)
            self.mirror.add(self._family, f"{self.name}_sum", labels, 0)

    def family(self) -> HistogramMetricFamily:
        """Return the family as prometheus-client exposes it."""
        from prometheus_client.core import HistogramMetricFamily
        from prometheus_client.samples import Sample

        with self._lock:
            rows = [(one, list(counts), self._sums[one], self._created[one]) for one, counts in self._counts.items()]
        family = HistogramMetricFamily(self.name, self.documentation, labels=self.labels)
        for labels, counts, total, created in rows:
            buckets: list[tuple[str, float]] = []
            running = 0
            for end, count in zip(self._ends, counts, strict=True):
                running += count
                buckets.append((end, running))
            family.add_metric(labels, buckets, total)
            if shows_created():
                named = dict(zip(self.labels, labels, strict=True))
                family.samples.append(Sample(f"{self.name}_created", named, created))
        return family

    def _begin(self, labels: Labels) -> None:
        self._counts[labels] = [0] * len(self._ends)
        self._sums[labels], self._created[labels] = 0.0, time.time()

    def renew_after_fork(self) -> None:
        """Start at zero with a lock of its own."""
        self._lock = threading.Lock()
        self._counts: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}
        self._created: dict[Labels, float] = {}
        if not self.labels:
            self._begin(())


def shows_created() -> bool:
    """Tell whether series bear when they began."""
    return os.environ.get("PROMETHEUS_DISABLE_CREATED_SERIES", "").lower() not in ("true", "1", "t")
