"""From a record of the listener to a `KernelRecord`: names, targets and rules instead of numbers."""

from __future__ import annotations

import ipaddress
import os
import socket

from ..capability import ASKED, CAPABILITY_BY_NUMBER, CAPABILITY_NUMBER, FLOOR, Capability
from ..decision import DenialCode, Verdict
from ..native import notify as native
from ..policy.compiled import CompiledPolicy, NetAction
from ..telemetry.event import Evaluation, KernelRecord
from .seccomp import describe, socket_text, syscall_name

ENFORCER = "seccomp-notify"

VERDICTS = {native.ALLOW: Verdict.ALLOW, native.DENY: Verdict.DENY, native.WOULD_DENY: Verdict.WOULD_DENY}
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
#: Calls that the filter stops for their mode argument alone.
_BY_MODE = frozenset({"open", "openat", "creat", "chmod", "fchmod", "fchmodat", "fchmodat2", "mknod", "mknodat"})
_SPECIAL_FILE = "no policy can grant set-user-id or set-group-id bits, nor device files"
_MULTIPATH = (
    "multipath TCP opens connections of its own, to addresses that no rule names. Hint: plain TCP, or "
    "Supervisor(network='listener'), which serves it as such"
)
_IPPROTO_MPTCP = 262
_O_ACCMODE, _O_CREAT, _O_TMPFILE = 0o3, 0o100, 0o20000000


def kernel_record(
    record: native.Record, sandbox_id: str, policy: CompiledPolicy | None, *, shadow: bool = False
) -> KernelRecord:
    """Return the record with its names; `policy` is the one that decided, for the rules' texts."""
    syscall = syscall_name(record.number)
    verdict = VERDICTS[record.verdict]
    capability = _capability(record, syscall)
    asked = CAPABILITY_BY_NUMBER[record.slot_capability] if record.asked == native.ASKED else None
    only_program = asked is Capability.PROCESS_EXEC and capability is not asked
    code = _CODES.get(record.reason)
    reason = _reason(code, capability) if code else "seen on its way to the file enforcer"
    if syscall in _BY_MODE and verdict is Verdict.DENY:
        # Files are decided elsewhere: what the filter refuses of these calls is the mode, which no rule speaks of.
        code, reason = DenialCode.ALWAYS_DENIED, _SPECIAL_FILE
    elif syscall == "socket" and code is DenialCode.ALWAYS_DENIED and record.args[2] & 0xFFFFFFFF == _IPPROTO_MPTCP:
        reason = _MULTIPATH
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
        reason=reason,
        rule=_rule_text(policy, record.rule),
        presented=_rule_text(policy, record.presented),
        pid=record.pid,
        tid=record.tid,
        monotonic_ns=record.monotonic_ns,
        generation=policy.generation if policy is not None else 0,
        count=record.times,
        broker_consulted=_consulted(record, capability, syscall),
        slot_capability=asked,
        # who was asked about a program has not been asked whether a process may be made for it
        slot_verdict=None if asked is None or only_program else VERDICTS[record.slot_verdict],
        shadow=shadow,
    )


def _consulted(record: native.Record, capability: Capability, syscall: str) -> bool | None:
    """Return whether the broker was asked: what no hook ever asks about was not; None where it cannot be known."""
    if record.asked == native.UNKNOWN:
        only_native = capability is Capability.KERNEL_MOUNT and syscall != "chroot"  # posix has no other function
        return None if capability in ASKED and not only_native else False
    return record.asked == native.ASKED


_ACTIONS = {
    Capability.NET_CONNECT: NetAction.CONNECT,
    Capability.NET_SEND: NetAction.CONNECT,
    Capability.NET_BIND: NetAction.BIND,
    Capability.NET_LISTEN: NetAction.BIND,
}
#: Decided by what is granted of the capability as a whole; process.exec also by Landlock, file by file.
_WHOLE = frozenset({Capability.PROCESS_FORK, Capability.RANDOM_READ, Capability.MEMORY_EXEC})


def evaluate(
    table: native.Policy, policy: CompiledPolicy, sandbox_id: str, capability: Capability, target: str
) -> KernelRecord | None:
    """Return what a table says of an operation, without a call; None where the table does not decide it."""
    rule = presented = -1
    if capability in _ACTIONS:
        where = _address(target)
        if where is None:
            return None
        listening = capability is Capability.NET_LISTEN
        reason, rule, presented = table.ask(_ACTIONS[capability], *where, listening=listening)
        monitors = bool(table.flags & native.FLAG_MONITOR_NET)
    elif capability in FLOOR or capability in _WHOLE:
        act = table.acts[CAPABILITY_NUMBER[capability]]
        reason = {native.ACT_ALLOW: 0, native.ACT_FLOOR: native.ALWAYS_DENIED}.get(act, native.NOT_GRANTED)
        monitors = act == native.ACT_WATCH
    else:
        return None
    code = _CODES.get(reason)
    return KernelRecord(
        sandbox_id=sandbox_id,
        enforcer=ENFORCER,
        hook="seccomp:table",
        capability=capability,
        target=target,
        verdict=Verdict.ALLOW if code is None else Verdict.WOULD_DENY if monitors else Verdict.DENY,
        errno=0,
        evaluation=Evaluation.PROBED,
        code=code,
        reason=_reason(code, capability) if code else "the table grants it",
        rule=_rule_text(policy, rule),
        presented=_rule_text(policy, presented),
        generation=policy.generation,
    )


def _address(target: str) -> tuple[bytes, int] | None:
    """Return address and port of "host:port"; None for names and unix paths. IPv4 in IPv6 is IPv4."""
    host, _, port = target.rpartition(":")
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
        number = int(port)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return ((mapped or address).packed, number) if 0 <= number <= 65535 else None


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


def _capability(record: native.Record, syscall: str) -> Capability:
    capability = CAPABILITY_BY_NUMBER[record.capability]
    if syscall in ("open", "openat"):
        flags = record.args[1 if syscall == "open" else 2]
        if flags & (_O_CREAT | _O_TMPFILE):
            return Capability.FS_CREATE
        return Capability.FS_WRITE if flags & _O_ACCMODE else Capability.FS_READ
    return capability


def _reason(code: DenialCode, capability: Capability) -> str:
    return _REASONS[code].format(capability=capability.value)


def _rule_text(policy: CompiledPolicy | None, index: int) -> str | None:
    if policy is None or not 0 <= index < len(policy.net):
        return None
    return policy.net[index].text or None
