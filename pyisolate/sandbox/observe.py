"""One request as operators see it: how long it ran, how it ended, its span, and the trace that its events bear."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from ..errors import GuestError, LimitExceeded, PolicyError, SandboxClosed, SandboxDied, SandboxError
from ..telemetry import tracing

if TYPE_CHECKING:
    from types import TracebackType

    from ..records import SandboxContext
    from ..telemetry.metrics import RequestOutcome
    from ..telemetry.recorder import Recorder
    from .denials import Denials


class Observed(Protocol):
    """A session, as far as its requests are observed."""

    context: SandboxContext
    denials: Denials

    @property
    def pid(self) -> int:
        """Process id of the guest."""

    @property
    def recorder(self) -> Recorder:
        """Where its events are recorded."""

    def set_traceparent(self, value: str | None) -> None:
        """Let events bear the trace context of the request that runs."""


class Observation:
    """The block that one request of a session runs in. No generator: that takes a microsecond."""

    __slots__ = ("_session", "_span", "_started")

    def __init__(self, session: Observed) -> None:
        self._session, self._started = session, time.perf_counter()
        self._span: tracing.NoSpan | None = None
        if tracing.observed():
            self._span = tracing.span("pyisolate.exec", lambda: _attributes(session))

    def __enter__(self) -> None:
        if self._span is not None:
            self._span.__enter__()
            self._session.set_traceparent(tracing.traceparent())

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        session, outcome = self._session, "returned" if error is None else outcome_of(error)
        try:
            if outcome is not None:
                session.recorder.metrics.requested(time.perf_counter() - self._started, outcome)
            if self._span is not None:
                self._span.set(
                    lambda: {"pyisolate.outcome": outcome or "not_sent", "pyisolate.denials": _refusals(session)}
                )
                session.set_traceparent(None)
        finally:
            if self._span is not None:
                self._span.__exit__(kind, error, tb)


def outcome_of(error: BaseException) -> RequestOutcome | None:
    """Return how a request ended that raised; None where it was never sent."""
    if isinstance(error, PolicyError):
        return "refused"
    if isinstance(error, LimitExceeded):
        return "limit"
    if isinstance(error, GuestError):
        return "raised"
    if isinstance(error, SandboxDied):
        return "died"
    if isinstance(error, SandboxError) and not isinstance(error, SandboxClosed):
        return None
    return "abandoned"


def _attributes(session: Observed) -> tracing.Attributes:
    return {**tracing.sandbox_attributes(session.context), "process.pid": session.pid}


def _refusals(session: Observed) -> int:
    return sum(event.count for event in session.denials.of_request())
