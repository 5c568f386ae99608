"""The `DenialEvent`: one refused operation, as both layers saw it. What each layer reports is in `records.py`."""

from __future__ import annotations

from typing import Any

import msgspec

from ..capability import Capability
from ..decision import DenialCode, Mode, Verdict
from ..records import Actor, AskAnswer, Evaluation, Reporter

SCHEMA = "pyisolate.denial/1"


class DenialEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One refused (or, in monitor mode, would-be refused) operation, as both layers saw it.

    Names only, never contents. Text is safe to print: control characters are escaped and bytes that are not UTF-8
    are kept reversibly (`\\xNN`). Times: `time` is UTC seconds since the epoch; `monotonic_ns`, `first_seen` and
    `last_seen` are CLOCK_MONOTONIC nanoseconds.
    """

    event_id: str
    time: float
    monotonic_ns: int
    sandbox: str
    sandbox_id: str
    policy: str
    policy_version: str
    policy_generation: int
    isolation: str
    pid: int
    tid: int
    capability: Capability
    target: str
    code: DenialCode
    requested_capability: str
    presented_capability: str | None
    policy_rule: str | None
    mode: Mode
    would_deny: bool
    would_deny_reason: str | None
    broker_decision: Verdict
    broker_reason: str
    kernel_decision: Verdict
    kernel_reason: str
    kernel_enforcer: str | None
    kernel_hook: str | None
    kernel_errno: int | None
    kernel_evaluation: Evaluation
    syscall: str | None
    origin: str | None
    actor: Actor | None
    count: int
    first_seen: int
    last_seen: int
    suggestion: dict[str, Any] | None
    retryable: bool
    reported_by: Reporter
    shadow: bool = False
    answer: AskAnswer | None = None
    asked_by: str | None = None
    waited_ms: int | None = None
    detail: str | None = None
    traceparent: str | None = None
    rule_reason: str | None = None
    also: tuple[str, ...] = ()
    schema: str = SCHEMA

    @property
    def said(self) -> str:
        """What the policy says of the rule that decided, to be added to the cause of an error; empty where nothing."""
        return f" (the policy says: {self.rule_reason})" if self.rule_reason else ""

    def to_dict(self) -> dict[str, Any]:
        """Return the event as plain data, in the order of `docs/protocol.md`."""
        plain: dict[str, Any] = msgspec.to_builtins(self, str_keys=True)
        plain["also"] = list(self.also)
        return plain

    def to_json(self) -> str:
        """Return the event as one line of JSON."""
        return msgspec.json.encode(self).decode()

    def __str__(self) -> str:
        line = (
            f"{self.capability} {self.target}  broker={self.broker_decision} kernel={self.kernel_decision}"
            f"  code={self.code}"
        )
        if self.policy_rule:
            line += f"  rule={self.policy_rule}"
        if self.origin:
            line += f"  at {self.origin}"
        return line + (f"  x{self.count}" if self.count > 1 else "")
