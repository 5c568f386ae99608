"""The thread that runs slow sinks; it starts when it is first used."""

from __future__ import annotations

from collections.abc import Callable

from ..event import DenialEvent
from ..worker_threads import QUEUE_LIMIT, Calls
from .protocol import EventSink


class SinkDispatch:
    """Hands events to sinks that may block, off the refusal's path. What does not fit is counted as lost."""

    def __init__(
        self,
        failed: Callable[[EventSink, Exception], None],
        lost: Callable[[int], None],
        limit: int = QUEUE_LIMIT,
    ) -> None:
        self._failed, self._lost = failed, lost
        self._calls = Calls("pyisolate-sinks", limit)

    def put(self, sink: EventSink, event: DenialEvent) -> None:
        """Queue an event; waits for nothing but the thread to start, with the first ones."""
        if not self._calls.put(self._emit, (sink, event)):
            self._lost(event.count)

    def flush(self, timeout: float) -> bool:
        """Wait until every sink has taken what was queued; False when `timeout` came first."""
        return self._calls.flush(timeout)

    def close(self, timeout: float) -> None:
        """Flush, then count what is left as lost. Idempotent."""
        left = sum(event.count for _, event in self._calls.close(timeout))
        if left:
            self._lost(left)

    def _emit(self, item: tuple[EventSink, DenialEvent]) -> None:
        sink, event = item
        try:
            sink.emit(event)
        except Exception as error:
            self._failed(sink, error)
