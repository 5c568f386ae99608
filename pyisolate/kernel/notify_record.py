"""From a record of the listener to a `KernelRecord`: names, targets and rules instead of numbers."""

from __future__ import annotations

import os
import socket

from ..capability import CAPABILITY_BY_NUMBER, Capability
from ..decision import DenialCode, Verdict
from ..native import notify as native
from ..policy.compiled import CompiledPolicy
from ..telemetry.event import Evaluation, KernelRecord
from .seccomp import describe, socket_text, syscall_name

ENFORCER = "seccomp-notify"

_VERDICTS = {native.ALLOW: Verdict.ALLOW, native.DENY: Verdict.DENY, native.WOULD_DENY: Verdict.WOULD_DENY}
#: Not refusals: only the "full" telemetry shows them.
SILENT_VERDICTS = frozenset({Verdict.ALLOW})
_CODES = {
    native.NOT_GRANTED: DenialCode.NOT_GRANTED,
    native.SCOPE_INSUFFICIENT: DenialCode.SCOPE_INSUFFICIENT,
    native.EXPLICIT_DENY: DenialCode.EXPLICIT_DENY,
    native.ALWAYS_DENIED: DenialCode.ALWAYS_DENIED,
    native.INTERNAL: DenialCode.INTERNAL,
}
_REASONS = {
    DenialCode.NOT_GRANTED: "the policy grants no {capability}",
    DenialCode.SCOPE_INSUFFICIENT: "no rule reaches this target",
    DenialCode.EXPLICIT_DENY: "a rule denies it",
    DenialCode.ALWAYS_DENIED: "no policy can grant it",
    DenialCode.INTERNAL: "the listener could not read what was asked for",
}
_O_ACCMODE, _O_CREAT = 0o3, 0o100


def kernel_record(record: native.Record, sandbox_id: str, policy: CompiledPolicy | None) -> KernelRecord:
    """Return the record with its names; `policy` is the one that decided, for the rules' texts."""
    syscall = syscall_name(record.number)
    verdict = _VERDICTS[record.verdict]
    capability = _capability(record, syscall, verdict)
    code = _CODES.get(record.reason)
    return KernelRecord(
        sandbox_id=sandbox_id,
        enforcer=ENFORCER,
        hook=f"seccomp:{syscall}",
        capability=capability,
        target=target_of(record, syscall, capability),
        verdict=verdict,
        errno=record.error,
        evaluation=Evaluation.ENFORCED,
        syscall=syscall,
        code=code,
        reason=_reason(code, capability) if code else "seen on its way to the file enforcer",
        rule=_rule_text(policy, record.rule),
        presented=_rule_text(policy, record.presented),
        pid=record.pid,
        tid=record.tid,
        monotonic_ns=record.monotonic_ns,
        generation=policy.generation if policy is not None else 0,
        count=record.times,
    )


def target_of(record: native.Record, syscall: str, capability: Capability) -> str:
    """Return what the call was about, in the broker's notation where the broker knows such operations."""
    if record.family in (4, 6):
        size, family = (4, socket.AF_INET) if record.family == 4 else (16, socket.AF_INET6)
        host = socket.inet_ntop(family, record.address[:size])
        return f"[{host}]:{record.port}" if record.family == 6 else f"{host}:{record.port}"
    if record.family == 1:
        path = os.fsdecode(record.path)
        return f"unix:@{path[1:]}" if path[:1] in ("", "\0") else f"unix:{path}"
    if record.path:
        return os.fsdecode(record.path)
    if capability is Capability.PROCESS_FORK:
        return "fork"
    if syscall in ("socket", "socketpair"):
        return socket_text(record.args[0], record.args[1])
    return describe(syscall, record.args)


def _capability(record: native.Record, syscall: str, verdict: Verdict) -> Capability:
    capability = CAPABILITY_BY_NUMBER[record.capability]
    if verdict is Verdict.ALLOW and syscall in ("open", "openat"):
        flags = record.args[1 if syscall == "open" else 2]
        if flags & _O_CREAT:
            return Capability.FS_CREATE
        return Capability.FS_WRITE if flags & _O_ACCMODE else Capability.FS_READ
    return capability


def _reason(code: DenialCode, capability: Capability) -> str:
    return _REASONS[code].format(capability=capability.value)


def _rule_text(policy: CompiledPolicy | None, index: int) -> str | None:
    if policy is None or not 0 <= index < len(policy.net):
        return None
    return policy.net[index].text or None
