"""Refusals that an enforcer counted and of which no record came: more a second than it sends, or than its ring holds.

Its counters are exact. What they hold beyond the records that were handed over becomes one record per capability,
without a target, so that events, `stats` and metrics add up to what was refused.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

import msgspec

from ..capability import Capability
from ..choices import EnforcerName
from ..decision import DenialCode, Verdict
from ..records import Evaluation, KernelRecord

_REFUSALS = frozenset({Verdict.DENY, Verdict.WOULD_DENY})


class CounterKey(msgspec.Struct, frozen=True):
    """What one exact counter counts. `code` is None where the counter does not know it."""

    capability: Capability
    verdict: Verdict
    code: DenialCode | None = None
    shadow: bool = False


#: Nothing decides a look-up: what has no record may have been one that the root view hid, or of a name that is nowhere.
LOOK_UP = CounterKey(Capability.FS_LOOKUP, Verdict.ALLOW)


class Reconciler:
    """One sandbox's refusals that were reported, by record or by count. Not thread-safe: one caller at a time."""

    def __init__(self) -> None:
        self._reported: Counter[CounterKey] = Counter()
        self._unnamed = 0
        #: how many records were dropped, as of the last call of `dropped_since_last`
        self.seen = 0

    def add(self, what: CounterKey, count: int = 1) -> None:
        """A record was handed over."""
        self._reported[what] += count

    def dropped_since_last(self, unnamed: int) -> bool:
        """True when more records were dropped, by the enforcer's own count, than at the last call."""
        before, self.seen = self.seen, unnamed
        return unnamed > before

    def unreported(self, counters: Mapping[CounterKey, int], unnamed: int) -> list[tuple[CounterKey, int]]:
        """Return what is to be reported now, by counter, and take it as reported.

        `unnamed`, read before the counters, bounds it: a refusal that was counted this instant still gets its record.
        """
        found = []
        for what, count in counters.items():
            left = min(count - self._reported[what], unnamed - self._unnamed)
            if left > 0 and what.verdict in _REFUSALS:
                self._reported[what] += left
                self._unnamed += left
                found.append((what, left))
        return found


def record(enforcer: EnforcerName, sandbox_id: str, pid: int, what: CounterKey, count: int, hint: str) -> KernelRecord:
    """Return the record that stands for `count` refusals without names."""
    return KernelRecord(
        sandbox_id=sandbox_id,
        enforcer=enforcer,
        hook="counter",
        capability=what.capability,
        target="",
        verdict=what.verdict,
        evaluation=Evaluation.COUNTED,
        code=what.code,
        reason=f"counted, not named: {hint}",
        pid=pid,
        monotonic_ns=time.monotonic_ns(),
        count=count,
        shadow=what.shadow,
    )
