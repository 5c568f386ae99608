"""The telemetry of one sandbox: records in, events recorded. What a supervisor holds beside its `Sandbox`.

A record becomes an event in the thread that brings it, so that it is stored, counted and audited before a caller
sees the refusal.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from ..capability import Capability
from ..decision import DenialCode, Mode, Verdict
from ..native.forked import renew
from ..records import (
    BrokerRecord,
    Evaluation,
    FileGrant,
    KernelRecord,
    Probe,
    RefusedOperation,
    Reporter,
    SandboxContext,
    Suggest,
    is_denial,
)
from .correlate import Joiner, LateReport
from .event import DenialEvent
from .guest_records import COUNT_LIMIT, InvalidRecord, validate_broker_record
from .merge import complete, complete_kernel, merge
from .recorder import Recorder
from .store import EventStore
from .suggested import suggested

_log = logging.getLogger("pyisolate.telemetry")


class SandboxTelemetry:
    """Validates, joins, merges and records. Thread-safe: from two halves of one operation that come at the same time,
    by two threads, the first makes the event, and the second finds it made.

    `expects` names the capabilities whose kernel records arrive by themselves, `watches` those of which records of what
    is let through do; `translate_tid` and `hold_ms` are the `Joiner`'s. `probe` is asked about what the broker refused;
    `unavailable` says why a capability's kernel verdict cannot be known here. Assign `context` when the policy is
    reloaded.
    """

    def __init__(
        self,
        context: SandboxContext,
        recorder: Recorder,
        *,
        expects: Iterable[Capability] = (),
        watches: Iterable[Capability] = (),
        suggest: Suggest | None = None,
        probe: Probe | None = None,
        unavailable: Callable[[Capability], str] | None = None,
        translate_tid: Callable[[int], int] | None = None,
        hold_ms: float = 2.0,
    ) -> None:
        self.context = context
        self.recorder = recorder
        self.store: EventStore = recorder.open(context)
        self._joiner = Joiner(
            frozenset(expects).__contains__,
            watches=frozenset(watches).__contains__,
            translate_tid=translate_tid,
            hold_ms=hold_ms,
        )
        self._suggest, self._probe, self._unavailable = suggest, probe, unavailable
        #: tells of a granted call that failed whether the file's own mode refused it, which is no denial
        self.by_mode: Callable[[BrokerRecord], bool] = lambda record: False
        self._closed = False
        #: takes what was recorded because its time was over, before a caller can ask whether something waits
        self.on_due: Callable[[list[DenialEvent]], None] | None = None
        #: when the timer looks at what waits (CLOCK_MONOTONIC, nanoseconds)
        self._looks: list[int] = []
        #: from the search for a record's other half until what was made of it can be found
        self._one_by_one = threading.RLock()
        renew(self)
        self._shadow: tuple[str, str] | None = None
        self._shadow_reasons: Mapping[str, str] = {}
        self._shadow_files: Sequence[FileGrant] = ()
        self._shadow_unresolved: Collection[str] = ()
        self._shadow_denied_modules: Collection[str] = ()

    def watch(
        self,
        shadow: tuple[str, str] | None,
        reasons: Mapping[str, str] | None = None,
        files: Sequence[FileGrant] = (),
        unresolved: Collection[str] = (),
        denied_modules: Collection[str] = (),
    ) -> None:
        """Take records of a shadow policy as well: their events bear its name, version and reasons of rules.

        `unresolved`: hosts that it grants, and that have no address.
        """
        self._shadow, self._shadow_reasons, self._shadow_files = shadow, reasons or {}, files
        self._shadow_unresolved, self._shadow_denied_modules = unresolved, denied_modules

    def reported(self, data: object) -> tuple[list[DenialEvent], DenialEvent | None]:
        """Take a `denial` frame's record; return the events recorded or completed now, and which is this record's own.

        None while it waits for its other half: what is recorded then is another's. Raises InvalidRecord for a report
        that breaks the protocol.
        """
        record = validate_broker_record(data)
        if record.shadow and (self._shadow is None or record.verdict is not Verdict.WOULD_DENY):
            raise InvalidRecord("denial record, from the guest: no shadow policy says so")
        events: list[DenialEvent] = []
        own: DenialEvent | None = None
        with self._one_by_one:
            for item in self._joiner.broker(record):
                report = item.broker if isinstance(item, LateReport) else item
                made = [self._complete(item)] if isinstance(item, LateReport) else self._alone(report)
                events += made
                if made and report.sequence == record.sequence:
                    own = made[0]
            self._look_later()
        return events, own

    def supervisor(self, record: BrokerRecord) -> DenialEvent:
        """Record a refusal that the supervisor itself decided (a limit, a message that is too large)."""
        return self._record(record, None, Reporter.SUPERVISOR)

    def unreported(self, capability: Capability, verdict: Verdict, count: int, pid: int) -> DenialEvent | None:
        """Record repeats that the guest had summed up and ended without reporting: its own word, like its records.

        None where the kernel has recorded them all.
        """
        with self._one_by_one:
            count -= self._joiner.without_report(capability, verdict, count) if count > 0 else 0
        if count <= 0:
            return None
        record = BrokerRecord(
            sequence=0,
            capability=capability,
            target="",
            verdict=verdict,
            reason="repeats of refusals that were late before; the guest ended before it could report them",
            pid=pid,
            monotonic_ns=time.monotonic_ns(),
            count=min(count, COUNT_LIMIT),
        )
        return self._record(record, None)

    def kernel(self, record: KernelRecord) -> list[DenialEvent]:
        """Take an enforcer's record; return the event recorded now, or nothing when neither layer refused."""
        if record.evaluation is Evaluation.COUNTED:
            return [self._record(None, record)]  # it names no operation that another half could belong to
        with self._one_by_one:
            return self._join(record)

    def confirm(self, event: DenialEvent, record: KernelRecord) -> DenialEvent | None:
        """Put what the supervisor saw in place of an event that only the guest's word has made, under the same id.

        It is not counted again. Return None where the store has that event no longer.
        """
        seen = self._merge(None, record, event_id=event.event_id)
        return seen if self.recorder.completed(event, seen) else None

    def suggestion(self, operation: RefusedOperation) -> dict[str, Any] | None:
        """Return what an event of this operation, of which no rule speaks, would suggest."""
        return suggested(self.context, self._suggest, operation, DenialCode.NOT_GRANTED)

    def _join(self, record: KernelRecord) -> list[DenialEvent]:
        made = [self._completed(before, record) for before in self._joiner.late_events(record)]
        if (left := record.count - sum(event.count for event in made)) <= 0:
            return made
        record = record if not made else msgspec.structs.replace(record, count=left)
        broker = self._joiner.kernel(record)
        if not is_denial(broker, record):
            return made
        event = self._record(broker, record)
        unmatched = record.count - (0 if broker is None else broker.count)
        if unmatched > 0:
            for late in self._joiner.tell(record, event, unmatched):
                event = self._complete(late)
        return [*made, event]

    def _completed(self, before: DenialEvent, record: KernelRecord) -> DenialEvent:
        """Complete an event that a report made, with what the kernel's record adds. It was counted then."""
        completed = complete_kernel(before, record)
        self.recorder.completed(before, completed)
        return completed

    @property
    def waiting(self) -> bool:
        """True while a record waits for its other half."""
        with self._one_by_one:  # what is being recorded just now is not yet where it can be found
            return self._joiner.waiting > 0

    def settle(self) -> list[DenialEvent]:
        """Record what still waits for its other half: call it before a request's result is handed out."""
        with self._one_by_one:
            return [event for record in self._joiner.settle(force=True) for event in self._alone(record)]

    def close(self) -> None:
        """Settle and end followers. Idempotent; `store` stays readable."""
        if not self._closed:
            self._closed = True
            self.settle()
            self.recorder.close(self.context.sandbox_id)

    def renew_after_fork(self) -> None:
        """Replace the lock, which a thread of the parent may hold."""
        self._one_by_one = threading.RLock()
        self._looks = []  # the parent's timer has them

    def _look_later(self) -> None:
        """Look at what waits when the time of the first of it is over, unless the timer looks before."""
        due = self._joiner.due_ns if self._joiner.waiting else None
        if due is None or self._closed or any(at <= due for at in self._looks):
            return
        self._looks.append(due)
        wait_s = max(0.0, (due - time.monotonic_ns()) / 1e9)
        self.recorder.timer.call_in(wait_s, functools.partial(self._settle_due, due))

    def _settle_due(self, look: int) -> None:
        with self._one_by_one:
            if look in self._looks:
                self._looks.remove(look)
            events = [event for record in self._joiner.settle() for event in self._alone(record)]
            if events and self.on_due is not None:
                self.on_due(events)
            self._look_later()

    def _alone(self, record: BrokerRecord) -> list[DenialEvent]:
        """Record a report that has no other half; none where a granted file's own mode refused the call."""
        if record.errno is not None and record.verdict is Verdict.ALLOW and self.by_mode(record):
            return []
        kernel = self._ask(record) if record.verdict is Verdict.DENY and record.errno is None else None
        event = self._record(record, kernel)
        self._joiner.tell_alone(record, event)
        return [event]

    def _complete(self, late: LateReport) -> DenialEvent:
        """Complete an event that the kernel's record made, with what the hook adds. It was counted then."""
        completed = complete(late.event, late.broker)
        self.recorder.completed(late.event, completed)
        return completed

    def _record(
        self, broker: BrokerRecord | None, kernel: KernelRecord | None, reporter: Reporter = Reporter.GUEST
    ) -> DenialEvent:
        return self.recorder.record(self._merge(broker, kernel, reporter))

    def _merge(
        self,
        broker: BrokerRecord | None,
        kernel: KernelRecord | None,
        reporter: Reporter = Reporter.GUEST,
        event_id: str | None = None,
    ) -> DenialEvent:
        record = broker or kernel
        assert record is not None
        return merge(
            self._context_of(record),
            broker,
            kernel,
            kernel_unavailable_reason=self._unavailable(record.capability) if self._unavailable is not None else "",
            suggest=self._suggest,
            broker_reporter=reporter,
            event_id=event_id,
        )

    def _context_of(self, record: BrokerRecord | KernelRecord) -> SandboxContext:
        if not record.shadow or self._shadow is None:
            return self.context
        name, version = self._shadow
        return msgspec.structs.replace(
            self.context,
            policy=name,
            policy_version=version,
            mode=Mode.MONITOR,
            reasons=dict(self._shadow_reasons),
            files=self._shadow_files,
            unresolved=self._shadow_unresolved,
            denied_modules=self._shadow_denied_modules,
        )

    def _ask(self, broker: BrokerRecord) -> KernelRecord | None:
        if self._probe is None:
            return None
        try:
            said = self._probe(broker)
            # Tables are shared by sandboxes that reloaded a different number of times: the context's count is the one.
            return None if said is None else msgspec.structs.replace(said, generation=0)
        except Exception:
            _log.warning("kernel probe failed", exc_info=True)  # the refusal stands; only its second opinion is missing
            return None
