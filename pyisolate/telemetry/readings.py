"""Seconds that are read from live sandboxes, added up by policy: what ended ones had used is kept."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING

from .counters import CounterTable, shows_created

if TYPE_CHECKING:
    from prometheus_client.core import CounterMetricFamily


class Readings:
    """One counter of seconds, `ended` being the part of sandboxes that have ended. Thread-safe."""

    def __init__(self, name: str, documentation: str) -> None:
        self.ended = CounterTable(name, documentation, ("policy",), bounded="policy")
        self._lock = threading.Lock()
        self._live: dict[str, tuple[str, float]] = {}
        self._shown: dict[str, float] = {}
        self._created: dict[str, float] = {}

    def read(self, sandbox_id: str, policy: str, seconds: float) -> None:
        """Note the total of a live sandbox; less than before is an older reading."""
        with self._lock:
            _, seen = self._live.get(sandbox_id, ("", 0.0))
            self._live[sandbox_id] = (policy, max(seen, seconds))

    def end(self, sandbox_id: str, policy: str, seconds: float) -> None:
        """Keep the last total of a sandbox that has ended."""
        with self._lock:
            _, seen = self._live.pop(sandbox_id, (policy, 0.0))
        self.ended.add((policy,), max(seen, seconds))

    def family(self) -> CounterMetricFamily:
        """Return the sums by policy. A counter never falls, whatever order the readings came in."""
        from prometheus_client.core import CounterMetricFamily

        totals: defaultdict[str, float] = defaultdict(float)
        with self._lock:
            for policy, seconds in self._live.values():
                totals[policy] += seconds
            for labels, seconds in self.ended.values().items():
                totals[labels[0]] += seconds
            for policy, seconds in totals.items():
                self._shown[policy] = max(seconds, self._shown.get(policy, 0.0))
            shown = dict(self._shown)
        family = CounterMetricFamily(self.ended.name, self.ended.documentation, labels=("policy",))
        for policy, seconds in shown.items():
            created = self._created.setdefault(policy, time.time())
            family.add_metric((policy,), seconds, created if shows_created() else None)
        return family

    def renew_after_fork(self) -> None:
        """Start at zero with a lock of its own; `ended` is renewed as the other tables are."""
        self._lock = threading.Lock()
        self._live, self._shown, self._created = {}, {}, {}
