"""Refusals of the host itself: guards and control operations. Events like any other, of the pseudo-sandbox `host`."""

from __future__ import annotations

import os
import threading
import time

from ..capability import Capability
from ..decision import Decision, Mode
from ..records import Actor, BrokerRecord, Reporter, SandboxContext, Suggest
from .event import DenialEvent
from .merge import merge
from .recorder import HOST, Recorder, default_recorder
from .tracing import traceparent


def host_context(
    *, policy: str = "", version: str = "", mode: Mode = Mode.ENFORCE, actor: Actor | None = None
) -> SandboxContext:
    """Return the context of an event that belongs to no sandbox."""
    return SandboxContext(
        sandbox=HOST,
        sandbox_id=HOST,
        policy=policy,
        policy_version=version,
        policy_generation=0,
        isolation=HOST,
        mode=mode,
        actor=actor,
        traceparent=traceparent(),
    )


def record_refusal(
    decision: Decision,
    context: SandboxContext,
    *,
    origin: str | None = None,
    suggest: Suggest | None = None,
    recorder: Recorder | None = None,
) -> DenialEvent:
    """Record what the host itself decided; return the event."""
    record = BrokerRecord(
        sequence=0,
        capability=Capability(decision.capability),
        target=decision.target,
        verdict=decision.verdict,
        code=decision.code,
        reason=decision.reason,
        rule=decision.rule,
        presented=decision.presented,
        origin=origin,
        pid=os.getpid(),
        tid=threading.get_native_id(),
        monotonic_ns=time.monotonic_ns(),
    )
    event = merge(
        context,
        record,
        None,
        kernel_unavailable_reason="the host's own code is not confined",
        suggest=suggest,
        broker_reporter=Reporter.SUPERVISOR,
    )
    return (recorder or default_recorder()).record(event)
