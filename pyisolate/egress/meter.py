"""What one sandbox has sent, received and asked for through the proxy, and when it is too much."""

from __future__ import annotations

import msgspec

from ..native.tunnels import RECEIVED, REQUESTS, SENT, Counts
from ..policy.compiled import EgressLimits
from .work import Work


class OverLimit(Exception):
    """A sandbox has used up what its policy gives it. `what` names the limit, as events do."""

    def __init__(self, what: str, most: int, unit: str) -> None:
        super().__init__(f"more than {most} {unit}")
        self.what = what


class Carried(msgspec.Struct, kw_only=True):
    """Requests and bytes that the proxy has carried."""

    requests: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0

    def less(self, before: Carried) -> Carried:
        """Return what came since."""
        return Carried(
            requests=max(0, self.requests - before.requests),
            sent_bytes=max(0, self.sent_bytes - before.sent_bytes),
            received_bytes=max(0, self.received_bytes - before.received_bytes),
        )


class Meter:
    """Counts for one sandbox, over all of its connections and policies. `carried` is what was not refused."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.work = Work()
        self._limits = EgressLimits()

    @property
    def limits(self) -> EgressLimits:
        """What the sandbox's policy gives it."""
        return self._limits

    @limits.setter
    def limits(self, limits: EgressLimits) -> None:
        self._limits = limits
        self.counts.limit(limits.sent_bytes, limits.received_bytes, limits.requests)

    @property
    def carried(self) -> Carried:
        """Return what was carried until now."""
        requests, sent, received = (self.counts.carried(what) for what in (REQUESTS, SENT, RECEIVED))
        return Carried(requests=requests, sent_bytes=sent, received_bytes=received)

    def request(self) -> None:
        """Count a request that the policy grants. Raises OverLimit."""
        if not self.counts.count(REQUESTS, 1):
            raise self.over_requests()

    def sent(self, count: int) -> None:
        """Count bytes that are about to go to a host. Raises OverLimit."""
        if not self.counts.count(SENT, count):
            raise self.over_sent()

    def received(self, count: int) -> None:
        """Count bytes that are about to go to the guest. Raises OverLimit."""
        if not self.counts.count(RECEIVED, count):
            raise self.over_received()

    def over_requests(self) -> OverLimit:
        """Return the error of a sandbox that has asked too often."""
        return OverLimit("egress requests", self._limits.requests or 0, "requests")

    def over_sent(self) -> OverLimit:
        """The same of one that has sent too much."""
        return OverLimit("egress sent", self._limits.sent_bytes or 0, "bytes sent")

    def over_received(self) -> OverLimit:
        """The same of what it received."""
        return OverLimit("egress received", self._limits.received_bytes or 0, "bytes received")
