"""Two layers, one event: what the broker and the kernel said about one operation becomes a `DenialEvent`.

Nothing here guesses. A layer that did not speak reads `not_reached` or `not_consulted` only where that is known, and
`unavailable` with a reason where it is not. Where the kernel's own record exists, its facts (capability, target,
process) win over what the guest reported.
"""

from __future__ import annotations

import errno as errno_names
import os
import time
from typing import NamedTuple

import msgspec

from ..capability import ASKED, FLOOR, Capability
from ..decision import DenialCode, Mode, Verdict
from ..records import (
    REFUSAL_ERRNOS,
    REFUSALS,
    Actor,
    BrokerRecord,
    Evaluation,
    KernelRecord,
    RefusedOperation,
    Reporter,
    SandboxContext,
    Suggest,
    is_denial,
)
from .event import DenialEvent
from .sanitize import escape, show_target
from .suggested import suggested

#: KernelRecord.enforcer values that stand for the supervisor itself (limits, watchdogs), not for a kernel mechanism.
SUPERVISOR_ENFORCERS = frozenset({"supervisor", "watchdog"})

_RETRYABLE = frozenset({Capability.LIMIT_PROCESSES, Capability.LIMIT_OPEN_FILES})
#: Kernel evaluations that the guest cannot have forged.
_OWN_RECORD = frozenset({Evaluation.ENFORCED, Evaluation.COUNTED})
#: Calls of capabilities that hooks ask about, which Python itself makes without a question.
_UNHOOKED = frozenset({"setsockopt", "socketpair", "sethostname", "setdomainname", "memfd_create"})
#: Granted by a section of their own.
_RANDOM_DEVICES = ("/dev/random", "/dev/urandom")
#: Of a move, and of making or removing a file that is granted by its name alone: what was said of names is no answer.
_NAME_ALONE = "the broker was asked about the name alone, and more than that decided"
_ORIGIN_LIMIT = 1024
_NAME_LIMIT = 256
_REASON_LIMIT = 1024


def disagree(event: DenialEvent) -> bool:
    """Tell whether one layer allowed what the other refused: policy drift."""
    broker, kernel = event.broker_decision, event.kernel_decision
    return (broker is Verdict.ALLOW and kernel in REFUSALS) or (broker in REFUSALS and kernel is Verdict.ALLOW)


def merge(
    context: SandboxContext,
    broker: BrokerRecord | None,
    kernel: KernelRecord | None,
    *,
    kernel_unavailable_reason: str = "",
    suggest: Suggest | None = None,
    broker_reporter: Reporter = Reporter.GUEST,
    shadow: bool = False,
    event_id: str | None = None,
) -> DenialEvent:
    """Return the event of one refused operation.

    `broker` must have passed `validate_broker_record` when a guest reported it; `broker_reporter` says who did.
    `kernel_unavailable_reason` is used where the kernel's verdict cannot be known. `event_id` saves the random number
    that a new one takes. Raises ValueError when neither record refuses.
    """
    if not is_denial(broker, kernel):
        raise ValueError("merge, of two records: neither layer refused, so there is no denial")
    said = _broker_side(broker, kernel)
    heard = _kernel_side(broker, kernel, kernel_unavailable_reason)
    lead, capability, target = _subject(broker, kernel)
    code = _code(capability, broker, kernel)
    would_deny = said.verdict is not Verdict.DENY and heard.verdict is not Verdict.DENY
    now = time.monotonic_ns()
    seen = lead.monotonic_ns if 0 < lead.monotonic_ns <= now else now
    shown = show_target(target)
    rule = _first(broker, kernel, "rule")
    asked = kernel is not None and kernel.answer is not None
    answered = kernel if asked else broker
    reason = said.reason if said.verdict in REFUSALS and not asked else heard.reason
    # where the policy already allows it, no rule would change the answer
    allowed = said.verdict is Verdict.ALLOW and heard.evaluation is Evaluation.ERRNO
    none = allowed or (kernel is not None and kernel.no_rule)
    operation = RefusedOperation(
        _wanted(capability, target, rule),
        target,
        lead.also,
        by_native=said.verdict is Verdict.NOT_CONSULTED,
        denied=code is DenialCode.EXPLICIT_DENY,
        passed=would_deny,
        of_link=lead.of_link if isinstance(lead, BrokerRecord) else bool(lead.flags & os.O_NOFOLLOW),
    )
    return DenialEvent(
        event_id=event_id or new_event_id(),
        time=time.time(),
        monotonic_ns=seen,
        sandbox=escape(context.sandbox, _NAME_LIMIT),
        sandbox_id=escape(context.sandbox_id, _NAME_LIMIT),
        policy=escape(context.policy, _NAME_LIMIT),
        policy_version=escape(context.policy_version, _NAME_LIMIT),
        policy_generation=_generation(context, kernel),
        isolation=context.isolation,
        pid=(kernel.pid if kernel is not None else 0) or (broker.pid if broker is not None else 0),
        tid=(kernel.tid if kernel is not None else 0) or (broker.tid if broker is not None else 0),
        capability=capability,
        target=shown,
        code=code,
        requested_capability=f"{capability.value} {shown}" if shown else capability.value,
        presented_capability=_text(_first(broker, kernel, "presented"), _REASON_LIMIT),
        policy_rule=_text(rule, _REASON_LIMIT),
        mode=Mode.MONITOR if would_deny else Mode.ENFORCE,
        would_deny=would_deny,
        would_deny_reason=(reason or code.value) if would_deny else None,
        broker_decision=said.verdict,
        broker_reason=said.reason,
        kernel_decision=heard.verdict,
        kernel_reason=heard.reason,
        kernel_enforcer=heard.enforcer,
        kernel_hook=heard.hook,
        kernel_errno=heard.errno,
        kernel_evaluation=heard.evaluation,
        syscall=_text(_first(broker, kernel, "syscall"), 64),
        origin=_text(broker.origin if broker is not None else None, _ORIGIN_LIMIT),
        actor=_actor(context.actor),
        # A listener's record of what was let through may stand for more operations than the report it met so far.
        count=max(1, lead.count, 0 if kernel is None else kernel.count),
        first_seen=seen,
        last_seen=seen,
        suggestion=None if none else suggested(context, suggest, operation, code),
        retryable=code is DenialCode.INTERNAL or capability in _RETRYABLE,
        reported_by=_reporter(broker, kernel, broker_reporter),
        shadow=shadow or lead.shadow,
        answer=None if answered is None else answered.answer,
        asked_by=None if answered is None else _text(answered.asked_by, 64),
        waited_ms=None if answered is None else answered.waited_ms,
        detail=_text(None if kernel is None else kernel.detail, _REASON_LIMIT),
        traceparent=context.traceparent,
        rule_reason=_rule_reason(context, rule),
        also=tuple([f"{one} {show_target(name)}" for one, name in lead.also if (one, name) != (capability, target)]),
    )


def complete(event: DenialEvent, broker: BrokerRecord) -> DenialEvent:
    """Return a kernel record's event with what the hook's later report of the same refusal adds: verdict and origin.

    And which function was called for a random number, as in `merge`.
    """
    if event.capability is Capability.RANDOM_READ and broker.target:
        shown = show_target(broker.target)
        requested = f"{event.capability.value} {shown}"
        event = msgspec.structs.replace(event, target=shown, requested_capability=requested)
    if event.broker_decision not in (Verdict.UNAVAILABLE, broker.verdict) or event.broker_reason == _NAME_ALONE:
        return msgspec.structs.replace(event, origin=event.origin or _text(broker.origin, _ORIGIN_LIMIT))
    reason = escape(broker.reason, _REASON_LIMIT)
    would = event.would_deny and broker.verdict in REFUSALS and reason
    return msgspec.structs.replace(
        event,
        would_deny_reason=reason if would else event.would_deny_reason,
        broker_decision=broker.verdict,
        broker_reason=reason,
        origin=event.origin or _text(broker.origin, _ORIGIN_LIMIT),
        syscall=event.syscall or _text(broker.syscall, 64),
    )


def complete_kernel(event: DenialEvent, kernel: KernelRecord) -> DenialEvent:
    """Return the event of a report with what the kernel's record of the same operation adds, which came after it."""
    return msgspec.structs.replace(
        event,
        kernel_decision=kernel.verdict,
        kernel_reason=escape(kernel.reason, _REASON_LIMIT),
        kernel_enforcer=escape(kernel.enforcer, 64) or None,
        kernel_hook=escape(kernel.hook, 64) or None,
        kernel_errno=kernel.errno or None,
        kernel_evaluation=kernel.evaluation,
        pid=kernel.pid or event.pid,
        tid=kernel.tid or event.tid,
        syscall=_text(kernel.syscall, 64) or event.syscall,
        reported_by=Reporter.KERNEL,
    )


class _Subject(NamedTuple):
    """Which record says what the operation was, and what it was."""

    lead: BrokerRecord | KernelRecord
    capability: Capability
    target: str


def _subject(broker: BrokerRecord | None, kernel: KernelRecord | None) -> _Subject:
    # A probe only asks about the broker's operation; any other kernel record is an operation that the kernel saw.
    probed = kernel is not None and kernel.evaluation is Evaluation.PROBED and not kernel.script
    lead = broker if kernel is None or (broker is not None and probed) else kernel
    assert lead is not None
    if lead.capability is Capability.RANDOM_READ and broker is not None:
        target = broker.target  # the function that was called: the kernel's side has only one name for them all
    else:
        target = lead.target or (broker.target if broker is not None else "")
    return _Subject(lead, lead.capability, target)


class _Side:
    """One layer's half of the event."""

    __slots__ = ("enforcer", "errno", "evaluation", "hook", "reason", "verdict")

    def __init__(self, verdict: Verdict, reason: str, evaluation: Evaluation = Evaluation.NONE) -> None:
        self.verdict, self.reason, self.evaluation = verdict, escape(reason, _REASON_LIMIT), evaluation
        self.enforcer: str | None = None
        self.hook: str | None = None
        self.errno: int | None = None


def _broker_side(broker: BrokerRecord | None, kernel: KernelRecord | None) -> _Side:
    said = broker.verdict if broker is not None else kernel.slot_verdict if kernel is not None else None
    if kernel is not None and kernel.script and kernel.broker_consulted is not False:
        return _Side(Verdict.UNAVAILABLE, _NAME_ALONE)
    if said in (Verdict.ALLOW, Verdict.WOULD_DENY) and kernel is not None and kernel.beyond_name:
        return _Side(Verdict.UNAVAILABLE, _NAME_ALONE)
    if broker is not None and kernel is None and _is_reported_limit(broker):
        return _Side(Verdict.NOT_CONSULTED, "a limit of the kernel's; not a question for the broker")
    if broker is not None:
        return _Side(broker.verdict, broker.reason)
    assert kernel is not None
    if kernel.broker_consulted is False:
        hooked = kernel.capability in ASKED and kernel.syscall not in _UNHOOKED
        about = kernel.syscall if kernel.capability in ASKED else kernel.capability.value
        how = "native code" if hooked else f"no hook asks about {about}"
        return _Side(Verdict.NOT_CONSULTED, f"the system call was made without asking the broker ({how})")
    if kernel.slot_verdict is not None:
        about = kernel.slot_capability or kernel.capability
        slot = f"broker slot {kernel.sequence}" if kernel.sequence else "broker slot"
        return _Side(kernel.slot_verdict, f"{slot}: {about.value}")
    if kernel.broker_consulted and kernel.slot_capability is kernel.capability:
        return _Side(Verdict.UNAVAILABLE, "the broker was asked as about the sandbox's own, which this is not")
    if kernel.broker_consulted and kernel.slot_capability is not None:
        return _Side(Verdict.UNAVAILABLE, f"the broker was asked about {kernel.slot_capability.value} only")
    if kernel.broker_consulted:
        return _Side(Verdict.UNAVAILABLE, "the broker was asked, but its verdict did not reach the kernel's record")
    if kernel.enforcer in SUPERVISOR_ENFORCERS:
        return _Side(Verdict.NOT_CONSULTED, "decided by the supervisor; not a question for the broker")
    return _Side(Verdict.UNAVAILABLE, f"{kernel.enforcer} cannot tell whether the broker was asked")


def _kernel_side(broker: BrokerRecord | None, kernel: KernelRecord | None, unavailable: str) -> _Side:
    refused = broker is not None and broker.errno in REFUSAL_ERRNOS
    if kernel is not None and (kernel.verdict in REFUSALS or not refused):
        side = _Side(kernel.verdict, kernel.reason, kernel.evaluation)
        side.enforcer = escape(kernel.enforcer, 64) or None
        side.hook = escape(kernel.hook, 64) or None
        side.errno = kernel.errno or None
        return side
    assert broker is not None
    if broker.errno is not None and refused:
        name = errno_names.errorcode[broker.errno]
        side = _Side(Verdict.DENY, f"{name} at the hook: an enforcer or a file's own permissions", Evaluation.ERRNO)
        side.errno = broker.errno
        return side
    if kernel is None and _is_reported_limit(broker):
        known = Evaluation.NONE if broker.errno is None else Evaluation.ERRNO
        side = _Side(Verdict.DENY, f"the guest reports it: {broker.reason}", known)
        side.errno = broker.errno
        return side
    if broker.verdict is Verdict.DENY:
        return _Side(Verdict.NOT_REACHED, "the broker refused first, so no system call was made")
    return _Side(Verdict.UNAVAILABLE, unavailable or "no enforcer here gives a verdict without refusing")


def _is_reported_limit(broker: BrokerRecord) -> bool:
    """Tell whether a record is the guest's word that the kernel refused it something over a limit."""
    return broker.code is DenialCode.LIMIT_EXCEEDED and broker.capability.family == "limit"


def _code(capability: Capability, broker: BrokerRecord | None, kernel: KernelRecord | None) -> DenialCode:
    if kernel is not None and kernel.code is not None and kernel.verdict in REFUSALS:
        return kernel.code
    if broker is not None and broker.code is not None:
        return broker.code
    if kernel is not None and kernel.code is not None:
        return kernel.code
    if capability in FLOOR:
        return DenialCode.ALWAYS_DENIED
    return DenialCode.LIMIT_EXCEEDED if capability.family == "limit" else DenialCode.NOT_GRANTED


def _wanted(capability: Capability, target: str, rule: str | None) -> Capability:
    """Return what a rule is to grant: the devices of randomness are its section's, unless a rule denies one by name."""
    of_section = rule is None or target not in rule or "random: " in rule
    if capability is Capability.FS_READ and target in _RANDOM_DEVICES and of_section:
        return Capability.RANDOM_READ
    return capability


def _reporter(broker: BrokerRecord | None, kernel: KernelRecord | None, broker_reporter: Reporter) -> Reporter:
    if (
        kernel is None
        or (kernel.evaluation is Evaluation.ERRNO)
        or (broker is not None and kernel.evaluation not in _OWN_RECORD and not kernel.tid)  # no call was seen
    ):
        return broker_reporter
    return Reporter.SUPERVISOR if kernel.enforcer in SUPERVISOR_ENFORCERS else Reporter.KERNEL


def _first(broker: BrokerRecord | None, kernel: KernelRecord | None, field: str) -> str | None:
    """Return the kernel's text where it has one (a guest cannot forge it), else the broker's."""
    own: str | None = getattr(kernel, field) if kernel is not None else None
    return own or (getattr(broker, field) if broker is not None else None)


def _rule_reason(context: SandboxContext, rule: str | None) -> str | None:
    """Return what the policy says of a rule, or of the rules that meet at one path (`a + b`)."""
    if rule is None or not context.reasons:
        return None
    parts = (rule,) if rule in context.reasons else rule.split(" + ")
    found = [context.reasons[part] for part in parts if part in context.reasons]
    return escape("; ".join(found), _REASON_LIMIT) if found else None


def _text(text: str | None, limit: int) -> str | None:
    return None if text is None else escape(text, limit)


def _actor(actor: Actor | None) -> Actor | None:
    return actor and Actor(kind=escape(actor.kind, _NAME_LIMIT), id=escape(actor.id, _NAME_LIMIT))


def _generation(context: SandboxContext, kernel: KernelRecord | None) -> int:
    """Return the generation that decided: a kernel record may be older than the last reload."""
    return (kernel.generation if kernel is not None else 0) or context.policy_generation


def new_event_id() -> str:
    """Return a UUIDv7 (RFC 9562): sorts by time, needs no state, so safe across fork."""
    value = (time.time_ns() // 1_000_000 << 80) | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | (7 << 76)
    value = value & ~(0x3 << 62) | (2 << 62)
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
