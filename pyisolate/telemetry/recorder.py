"""The one way an event goes: store, counters, audit log, sinks, alerts. In this order, before the refusal is seen.

Nothing here raises into the refusal or delays it: a sink that fails is counted and logged, a sink that may block
runs on a thread of its own, and a flood is rate-limited per sandbox: what the limit keeps from audit log and sinks is
counted, and follows as summary events whose counts add up.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Final, Literal, Protocol

import msgspec

from ..native.forked import call_in_child, renew
from ..records import SandboxContext
from .alerts import default_engine
from .event import DenialEvent
from .merge import disagree
from .metrics import METRICS, AlertStates, Metrics
from .sinks.configure import get_event_sinks, open_event_sinks
from .sinks.dispatch import SinkDispatch
from .sinks.protocol import EventSink, is_immediate
from .store import CAPACITY, COALESCE_WINDOW_S, ClosedStores, EventStore, Key, coalesce, coalesce_key
from .worker_threads import LOG_INTERVAL_S, Timer

_log = logging.getLogger("pyisolate.telemetry")
logging.getLogger("pyisolate").addHandler(logging.NullHandler())  # nothing reaches stderr unless the host asks

SUMMARY_INTERVAL_S = 1.0
#: Distinct suppressed denials that keep their target; the rest of a flood is summed up as `VARIOUS`.
SUMMARY_KEYS = 64
VARIOUS = "(various)"
#: Sandbox id of events that belong to no sandbox: guards and control operations.
HOST: Final = "host"


class AlertObserver(Protocol):
    """An alert engine, as far as the recorder needs it."""

    def observe(self, event: DenialEvent) -> None:
        """Count an event against the rules."""
        ...

    def lost(self, stage: str, count: int) -> None:
        """Count lost events against the rules."""
        ...


class _Flow:
    """One sandbox's rate limit and what it holds back."""

    __slots__ = ("held", "last", "store", "tokens")

    def __init__(self, store: EventStore | None, burst: float) -> None:
        self.store = store
        self.tokens, self.last = burst, time.monotonic()
        self.held: dict[Key, DenialEvent] = {}


class Recorder:
    """Records events of all sandboxes of one supervisor (and of guards, which have none). Thread-safe.

    `sinks=None` means the process's sinks (`get_event_sinks`), `alerts="default"` its alert rules. `rate` and `burst`
    bound the events a second that one sandbox brings to audit log and sinks; store, counters and alerts see all.
    """

    def __init__(
        self,
        *,
        metrics: Metrics = METRICS,
        audit: EventSink | None = None,
        sinks: Sequence[EventSink] | None = None,
        alerts: AlertObserver | Literal["default"] | None = "default",
        capacity: int = CAPACITY,
        coalesce_window_s: float = COALESCE_WINDOW_S,
        rate: float = 1000.0,
        burst: int = 2000,
    ) -> None:
        self.metrics = metrics
        self.alerts: AlertObserver | None = default_engine() if isinstance(alerts, str) else alerts
        shown: object = self.alerts
        if isinstance(shown, AlertStates):
            metrics.add_alerts(shown)
        self._audit = audit
        self._sinks = None if sinks is None else tuple(sinks)
        self._capacity, self._window_s = capacity, coalesce_window_s
        self._rate, self._burst = rate, float(burst)
        self._lock = threading.Lock()
        self._flows: dict[str, _Flow] = {}
        self._closed = ClosedStores()
        self._logged: dict[int, float] = {}
        self._summary_due = False
        self._dispatch = SinkDispatch(self._sink_failed, self._sink_lost)
        self.timer = Timer()
        renew(self)

    def open(self, context: SandboxContext | str) -> EventStore:
        """Return the sandbox's store (by context or id), made at the first call; it stays readable after `close`."""
        sandbox_id = context if isinstance(context, str) else context.sandbox_id
        with self._lock:
            flow = self._flows.get(sandbox_id)
            if flow is None or flow.store is None:
                flow = self._flows[sandbox_id] = _Flow(EventStore(self._capacity, self._window_s), self._burst)
            assert flow.store is not None
            return flow.store

    def close(self, sandbox_id: str) -> None:
        """Write the sandbox's summary events and end its followers."""
        with self._lock:
            flow = self._flows.pop(sandbox_id, None)
        if flow is not None:
            self._summarise(flow)
            if flow.store is not None:
                flow.store.close()
                self._closed.keep(sandbox_id, flow.store)

    def store_of(self, sandbox_id: str) -> EventStore | None:
        """Return the store of a sandbox that is open, or was closed not long ago."""
        flow = self._flows.get(sandbox_id)
        return flow.store if flow is not None else self._closed.get(sandbox_id)

    def events_of(self, sandbox_id: str) -> list[DenialEvent]:
        """Return a sandbox's stored events, oldest first."""
        store = self.store_of(sandbox_id)
        return [] if store is None else store.events()

    def count_of(self, sandbox_id: str) -> int:
        """Return how many denials a sandbox has had, duplicates and lost ones included."""
        store = self.store_of(sandbox_id)
        return 0 if store is None else store.total

    def lost_of(self, sandbox_id: str) -> int:
        """Return how many of them are no longer in the store."""
        store = self.store_of(sandbox_id)
        return 0 if store is None else store.lost

    def named(self, event: DenialEvent) -> DenialEvent:
        """Return an event with the id under which its sandbox's store holds it."""
        store = self.store_of(event.sandbox_id)
        return event if store is None else store.named(event)

    def follow(self, sandbox_id: str, timeout: float | None = None) -> Iterator[DenialEvent]:
        """Yield a sandbox's events, old and new; see `EventStore.follow`."""
        store = self.store_of(sandbox_id)
        return iter(()) if store is None else store.follow(timeout=timeout)

    def record(self, event: DenialEvent) -> DenialEvent:
        """Record an event everywhere; return it. Never raises."""
        if event.sandbox_id == HOST:
            self.open(HOST)
        flow = self._flows.get(event.sandbox_id)
        if flow is not None and flow.store is not None:
            evicted = flow.store.add(event)
            if evicted:
                self.lost("store", evicted)
        self.metrics.denial(event)
        if self._audit is not None or self.sinks:
            if self._may_pass(event, flow):
                self._send(event)
            else:
                self.metrics.suppressed.add((event.policy,), event.count)
        if self.alerts is not None:
            try:
                self.alerts.observe(event)
            except Exception as error:
                self._failure(self.alerts, error)
        return event

    def completed(self, event: DenialEvent, full: DenialEvent) -> bool:
        """Show in the store what was learnt of a recorded event since; it is not counted again.

        Return False where nothing changed there: the store has it no longer.
        """
        store = self.store_of(event.sandbox_id)
        evicted = store.amend(event, full) if store is not None else None
        if evicted:
            self.lost("store", evicted)
        if disagree(full) and not disagree(event):
            self.metrics.drift.add((full.capability.value, full.kernel_evaluation.value), full.count)
        return evicted is not None

    def lost(self, stage: str, count: int) -> None:
        """Count events that were lost before they could be read (`stage`: kernel, guest, store, sink ...)."""
        self.metrics.lost.add((stage,), count)
        if self.alerts is not None:
            try:
                self.alerts.lost(stage, count)
            except Exception as error:
                self._failure(self.alerts, error)

    @property
    def sinks(self) -> tuple[EventSink, ...]:
        """The sinks in use."""
        if self._sinks is not None:
            return self._sinks
        try:
            return get_event_sinks()
        except Exception as error:  # a broken sinks file must not hide the refusal that is being recorded
            self._sink_failed(get_event_sinks, error)
            return ()

    def open_sinks(self) -> None:
        """Make the process's sinks where this recorder uses them: a wrong configuration is an error, raised here."""
        if self._sinks is None:
            open_event_sinks()

    def flush(self, timeout: float = 5.0) -> None:
        """Write out summary events and wait until slow sinks have taken what was queued for them."""
        self._summarise_all()
        self._dispatch.flush(timeout)

    def shutdown(self, timeout: float = 5.0) -> None:
        """Flush, close every store, and close the sinks that were given to this recorder. Idempotent."""
        with self._lock:
            names = list(self._flows)
        for name in names:
            self.close(name)
        self.timer.close()
        self._dispatch.close(timeout)
        for sink in (self._audit, *(self._sinks or ())):
            if sink is not None:
                try:
                    sink.close()
                except Exception as error:
                    self._failure(sink, error)
        self._audit, self._sinks = None, () if self._sinks is not None else None

    def _may_pass(self, event: DenialEvent, flow: _Flow | None) -> bool:
        with self._lock:
            if flow is None:  # it came in after its sandbox was closed
                flow = self._flows.setdefault("", _Flow(None, self._burst))
            now = time.monotonic()
            flow.tokens = min(self._burst, flow.tokens + (now - flow.last) * self._rate)
            flow.last = now
            if flow.tokens >= 1:
                flow.tokens -= 1
                return True
            self._hold_back(event, flow)
            start, self._summary_due = not self._summary_due, True
        if start:
            self.timer.call_in(SUMMARY_INTERVAL_S, self._summarise_all)
        return False

    def _hold_back(self, event: DenialEvent, flow: _Flow) -> None:
        key = coalesce_key(event)
        if key not in flow.held and len(flow.held) >= SUMMARY_KEYS:
            event = msgspec.structs.replace(
                event,
                target=VARIOUS,
                requested_capability=f"{event.capability.value} {VARIOUS}",
                presented_capability=None,
                policy_rule=None,
                origin=None,
                suggestion=None,
            )
            key = coalesce_key(event)
        first = flow.held.get(key)
        flow.held[key] = event if first is None else coalesce(first, event)

    def _summarise_all(self) -> None:
        with self._lock:
            self._summary_due = False
            flows = [flow for flow in self._flows.values() if flow.held]
        for flow in flows:
            self._summarise(flow)

    def _summarise(self, flow: _Flow) -> None:
        with self._lock:
            held, flow.held = flow.held, {}
        for event in held.values():
            self._send(event)

    def _send(self, event: DenialEvent) -> None:
        if self._audit is not None:
            self._emit(self._audit, event)
        for sink in self.sinks:
            if is_immediate(sink):
                self._emit(sink, event)
            else:
                self._dispatch.put(sink, event)

    def _emit(self, sink: EventSink, event: DenialEvent) -> None:
        try:
            sink.emit(event)
        except Exception as error:
            self._sink_failed(sink, error)

    def _sink_failed(self, sink: object, error: Exception) -> None:
        self.metrics.audit_errors.add()
        self._failure(sink, error)

    def _sink_lost(self, count: int) -> None:
        self.lost("sink", count)

    def _failure(self, source: object, error: Exception) -> None:
        now = time.monotonic()
        if now - self._logged.get(id(source), -LOG_INTERVAL_S) >= LOG_INTERVAL_S:
            self._logged[id(source)] = now
            name = getattr(source, "__name__", type(source).__name__)
            _log.error("%s failed: %s: %s (further failures are counted)", name, type(error).__name__, error)

    def renew_after_fork(self) -> None:
        """Forget what is under way: it is the parent's, as are the threads that serve it."""
        self._lock = threading.Lock()
        self._flows, self._summary_due, self._closed = {}, False, ClosedStores()
        self._dispatch = SinkDispatch(self._sink_failed, self._sink_lost)
        self.timer = Timer()


_default: Recorder | None = None
_default_lock = threading.Lock()


def default_recorder() -> Recorder:
    """Return the process's recorder, for guards and control operations that belong to no supervisor."""
    global _default
    if _default is None:
        with _default_lock:
            if _default is None:
                _default = Recorder()
    return _default


def set_default_recorder(recorder: Recorder) -> None:
    """Let guards and control operations record where `recorder` does."""
    global _default
    _default = recorder


@call_in_child
def _after_fork() -> None:
    global _default_lock
    _default_lock = threading.Lock()
