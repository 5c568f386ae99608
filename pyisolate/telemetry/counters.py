"""Exact counters with labels, as prometheus-client exposes them."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily

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
