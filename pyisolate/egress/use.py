"""What the proxy has carried, by policy: from the totals of each sandbox that it reports to what is new in them."""

from __future__ import annotations

from collections import OrderedDict

from .messages import Counted
from .meter import Carried

#: Sandboxes whose policy is remembered: the last count of one that has ended comes after its end.
_MOST_REMEMBERED = 10_000


class Use:
    """Remembers what was reported of each sandbox. Its caller holds a lock, or is the one reader."""

    def __init__(self) -> None:
        self._policies: OrderedDict[str, str] = OrderedDict()
        self._before: dict[str, Counted] = {}
        #: processor time that every proxy together took for a sandbox
        self._spent_s: dict[str, float] = {}

    def begin(self) -> None:
        """Another proxy counts from zero."""
        self._before.clear()

    def name(self, key: str, policy: str) -> None:
        """Know whose policy a sandbox has from now on."""
        self._policies[key] = policy
        self._policies.move_to_end(key)
        while len(self._policies) > _MOST_REMEMBERED:
            gone, _ = self._policies.popitem(last=False)
            self._before.pop(gone, None)
            self._spent_s.pop(gone, None)

    def count(self, report: Counted) -> tuple[str, Carried] | None:
        """Return the policy of a sandbox and what is new; None for one that was never admitted."""
        if (policy := self._policies.get(report.key)) is None:
            return None
        before = self._before.get(report.key)
        self._before[report.key] = report
        more_s = report.spent_s - (0.0 if before is None else before.spent_s)
        self._spent_s[report.key] = self._spent_s.get(report.key, 0.0) + max(0.0, more_s)
        return policy, report.carried.less(Carried() if before is None else before.carried)

    def spent_s(self, key: str) -> float:
        """Return the processor time that was taken for a sandbox until it was last counted."""
        return self._spent_s.get(key, 0.0)

    def connections(self, key: str) -> int:
        """Return how many connections a sandbox had when it was last counted."""
        known = self._before.get(key)
        return 0 if known is None else known.connections
