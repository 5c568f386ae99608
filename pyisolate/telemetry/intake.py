"""Where records enter the host: checked, merged into events, recorded. One per supervisor.

A record is turned into an event at once, in the thread that received it, so that it is stored, counted and audited
before anybody sees the refusal it tells of.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable

from ..capability import Capability
from ..decision import DenialCode, Verdict
from ..policy.suggest import suggestion
from .event import BrokerRecord, DenialEvent, KernelRecord, Reporter, SandboxContext
from .merge import is_denial, merge
from .recorder import Recorder
from .untrusted import validate_broker_record

_log = logging.getLogger("pyisolate.telemetry")
_REMEMBERED = 4096


class Intake:
    """Turns records of brokers, enforcers and the supervisor itself into recorded events."""

    def __init__(self, recorder: Recorder, context_of: Callable[[str], SandboxContext | None]) -> None:
        self._recorder = recorder
        self._context_of = context_of
        # (sandbox, sequence) of operations whose kernel record came first: the errno that the hook then reports is
        # the same refusal, not a second one
        self._seen: OrderedDict[tuple[str, int], DenialEvent] = OrderedDict()

    def broker(
        self, context: SandboxContext, record: BrokerRecord, kernel: KernelRecord | None
    ) -> DenialEvent | None:
        """Record what a guest's broker reports. Raises InvalidRecord for a report that breaks the protocol."""
        checked = validate_broker_record(record)
        if checked.errno is not None:
            already = self._seen.pop((context.sandbox_id, checked.sequence), None)
            if already is not None:
                return already
        event = merge(context, checked, kernel, suggest=suggestion)
        self._recorder.record(event)
        return event

    def kernel(self, record: KernelRecord) -> DenialEvent | None:
        """Record what an enforcer decided; None when it refused nothing or its sandbox is unknown."""
        if not is_denial(None, record):
            return None
        context = self._context_of(record.sandbox_id)
        if context is None:
            _log.warning("a %s record came for the unknown sandbox %s", record.enforcer, record.sandbox_id)
            return None
        event = merge(context, None, record, suggest=suggestion)
        if record.sequence:
            self._seen[(context.sandbox_id, record.sequence)] = event
            if len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
        self._recorder.record(event)
        return event

    def supervisor(self, context: SandboxContext, record: KernelRecord) -> DenialEvent:
        """Record what the supervisor itself refused: a limit, a control operation."""
        event = merge(context, None, record, suggest=suggestion)
        self._recorder.record(event)
        return event

    def refuse_without_actor(self, name: str, context: SandboxContext) -> DenialEvent:
        """Record that a spawn that must name its actor did not."""
        record = BrokerRecord(
            sequence=0,
            capability=Capability.CONTROL_GUARD,
            target=name,
            verdict=Verdict.DENY,
            code=DenialCode.ACTOR_REQUIRED,
            reason="require_actor is set and no actor was given",
            monotonic_ns=time.monotonic_ns(),
        )
        event = merge(context, record, None, broker_reporter=Reporter.SUPERVISOR)
        self._recorder.record(event)
        return event
