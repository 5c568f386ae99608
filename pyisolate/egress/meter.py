"""What one sandbox has sent, received and asked for through the proxy, and when it is too much."""

from __future__ import annotations

import msgspec

from ..policy.compiled import EgressLimits


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
        self.limits, self.carried = EgressLimits(), Carried()
        self._requests = self._sent = self._received = 0

    def request(self) -> None:
        """Count a request that the policy grants. Raises OverLimit."""
        self._requests += 1
        _check("egress requests", self._requests, self.limits.requests, "requests")
        self.carried.requests += 1

    def sent(self, count: int) -> None:
        """Count bytes that are about to go to a host. Raises OverLimit."""
        self._sent += count
        _check("egress sent", self._sent, self.limits.sent_bytes, "bytes sent")
        self.carried.sent_bytes += count

    def received(self, count: int) -> None:
        """Count bytes that are about to go to the guest. Raises OverLimit."""
        self._received += count
        _check("egress received", self._received, self.limits.received_bytes, "bytes received")
        self.carried.received_bytes += count


def _check(what: str, used: int, most: int | None, unit: str) -> None:
    if most is not None and used > most:
        raise OverLimit(what, most, unit)
