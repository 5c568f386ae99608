"""What one sandbox has sent, received and asked for through the proxy, and when it is too much."""

from __future__ import annotations

from ..policy.compiled import EgressLimits


class OverLimit(Exception):
    """A sandbox has used up what its policy gives it. `what` names the limit, as events do."""

    def __init__(self, what: str, most: int, unit: str) -> None:
        super().__init__(f"more than {most} {unit}")
        self.what = what


class Meter:
    """Counts for one sandbox, over all of its connections and policies."""

    def __init__(self) -> None:
        self.limits = EgressLimits()
        self._requests = self._sent = self._received = 0

    def request(self) -> None:
        """Count a request that the policy grants. Raises OverLimit."""
        self._requests += 1
        _check("egress requests", self._requests, self.limits.requests, "requests")

    def sent(self, count: int) -> None:
        """Count bytes that are about to go to a host. Raises OverLimit."""
        self._sent += count
        _check("egress sent", self._sent, self.limits.sent_bytes, "bytes sent")

    def received(self, count: int) -> None:
        """Count bytes that are about to go to the guest. Raises OverLimit."""
        self._received += count
        _check("egress received", self._received, self.limits.received_bytes, "bytes received")


def _check(what: str, used: int, most: int | None, unit: str) -> None:
    if most is not None and used > most:
        raise OverLimit(what, most, unit)
