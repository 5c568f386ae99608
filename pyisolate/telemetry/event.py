"""The records of a refusal: what each layer reports, and the one `DenialEvent` that merges them."""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from ..capability import Capability
from ..decision import DenialCode, Mode, Verdict

SCHEMA = "pyisolate.denial/1"


class Evaluation(enum.StrEnum):
    """How the kernel's decision became known."""

    ENFORCED = "enforced"  # the kernel mechanism decided and we hold its own record
    ERRNO = "errno"  # the system call's errno, seen at the hook in the guest
    PROBED = "probed"  # the same kernel tables were asked without acting
    COUNTED = "counted"  # a kernel counter says that it happened, without the target
    NONE = "none"  # no kernel record; kernel_decision says why


class Reporter(enum.StrEnum):
    """Who saw it. What only the guest reported could be forged by the guest; the rest could not."""

    GUEST = "guest"
    SUPERVISOR = "supervisor"
    KERNEL = "kernel"


class BrokerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the broker decided, as the guest's interpreter reports it (a hostile input on the host)."""

    sequence: int
    capability: Capability
    target: str
    verdict: Verdict
    code: DenialCode | None = None
    reason: str = ""
    rule: str | None = None
    presented: str | None = None
    origin: str | None = None
    pid: int = 0
    tid: int = 0
    monotonic_ns: int = 0
    count: int = 1
    #: set when the operation went on and the kernel then refused it: errno as the hook saw it
    errno: int | None = None
    syscall: str | None = None
    #: decided by the shadow policy: the one in force may have allowed it
    shadow: bool = False


class KernelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What one enforcer decided or saw. `pid` and `tid` are the supervisor's view (kernel: tgid and pid).

    `sequence`, `slot_capability` and `slot_verdict` are the broker slot as the kernel program copied it (the listener
    has no sequence), 0/None where there is none; `broker_consulted` is None where it cannot be known.
    """

    sandbox_id: str
    enforcer: str
    hook: str
    capability: Capability
    target: str
    verdict: Verdict
    errno: int = 0
    evaluation: Evaluation = Evaluation.ENFORCED
    syscall: str | None = None
    code: DenialCode | None = None
    reason: str = ""
    rule: str | None = None
    presented: str | None = None
    pid: int = 0
    tid: int = 0
    monotonic_ns: int = 0
    generation: int = 0
    count: int = 1
    sequence: int = 0
    slot_capability: Capability | None = None
    slot_verdict: Verdict | None = None
    broker_consulted: bool | None = None
    #: decided by the shadow policy: the one in force may have allowed it
    shadow: bool = False


class Actor(msgspec.Struct, frozen=True, kw_only=True):
    """On whose behalf a sandbox or a guarded function runs."""

    kind: str
    id: str


class SandboxContext(msgspec.Struct, frozen=True, kw_only=True):
    """What the supervisor knows of a sandbox, for its events."""

    sandbox: str
    sandbox_id: str
    policy: str
    policy_version: str
    policy_generation: int
    isolation: str
    mode: Mode = Mode.ENFORCE
    actor: Actor | None = None


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
    schema: str = SCHEMA

    def to_dict(self) -> dict[str, Any]:
        """Return the event as plain data, in the order of `docs/protocol.md`."""
        return msgspec.to_builtins(self, str_keys=True)  # type: ignore[no-any-return]

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
