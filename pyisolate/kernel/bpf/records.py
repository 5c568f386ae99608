"""From the bytes of a BPF record to a `KernelRecord`: names, targets and rules instead of numbers."""

from __future__ import annotations

import os
import socket
import struct

import msgspec

from ...capability import CAPABILITY_BY_NUMBER, Capability
from ...choices import EnforcerName
from ...decision import DenialCode, Verdict
from ...native.process import signal_name
from ...policy.broker import Broker
from ...policy.compiled import CompiledPolicy, FsRight
from ...policy.sockets import socket_text
from ...records import Evaluation, KernelRecord
from ..seccomp.filter import syscall_name

#: struct pyi_record; tests/host/test_bpf_layout.py holds it against the objects' BTF
HEADER = struct.Struct("=QIIIIIIIIQHHhhBBBBBBH16sQII")
_PREFIX = 4  # pyi_path_key.prefixlen stands between header and text

#: enum pyi_hook
HOOKS: dict[int, str] = dict(
    enumerate(
        "file_open file_receive file_truncate inode_getattr inode_setattr inode_setxattr path_mknod path_mkdir "
        "path_rmdir path_unlink path_symlink path_link path_rename path_truncate path_chmod path_chown path_chroot "
        "path_notify file_ioctl".split(),
        1,
    )
)
HOOKS |= dict(
    enumerate(
        "mmap_file file_mprotect bprm_check_security bprm_creds_for_exec task_alloc task_kill ptrace_access_check "
        "ptrace_traceme task_prlimit task_setnice task_setscheduler task_setioprio task_setpgid "
        "task_movememory".split(),
        30,
    )
)
HOOKS |= dict(
    enumerate(
        "socket_create socket_bind socket_connect socket_listen socket_accept socket_sendmsg socket_setsockopt "
        "unix_stream_connect unix_may_send netlink_send cgroup/connect4 cgroup/connect6 cgroup/sendmsg4 "
        "cgroup/sendmsg6 cgroup/bind4 cgroup/bind6 cgroup/sock_create".split(),
        50,
    )
)
HOOKS |= dict(
    enumerate(
        "sb_mount sb_umount sb_remount sb_pivotroot move_mount capable userns_create uring perf_event_open key "
        "ipc kernel_load inode_init_security_anon bpf settime syslog quotactl fs_context_parse_param".split(),
        70,
    )
)
#: From here on: seen on the way out of a system call, and refused by another of the kernel's checks.
_O_ACCMODE, _O_CREAT = 0o3, 0o100

VERDICTS = {0: Verdict.ALLOW, 1: Verdict.DENY, 2: Verdict.WOULD_DENY}
SLOT_VERDICTS = {1: Verdict.ALLOW, 2: Verdict.DENY, 3: Verdict.WOULD_DENY}
CODES = {
    1: DenialCode.NOT_GRANTED,
    2: DenialCode.SCOPE_INSUFFICIENT,
    3: DenialCode.EXPLICIT_DENY,
    4: DenialCode.ALWAYS_DENIED,
    5: DenialCode.INTERNAL,
}

#: enum pyi_flag, as reasons; the first that is set speaks
_FLAG_REASONS = (
    (4, "the sandbox is closed"),
    (8, "the file is not below the sandbox's root, so its path means nothing to the policy"),
    (16, "the path is too long or too deep to be judged"),
    (64, "the new name would carry rights that the old one lacks, or rules would stay behind"),
    (128, "it has no path (a memfd, an anonymous or abstract object)"),
)
_REASONS = {
    DenialCode.NOT_GRANTED: "the policy grants no {capability}",
    DenialCode.SCOPE_INSUFFICIENT: "no rule reaches this target",
    DenialCode.EXPLICIT_DENY: "a rule denies it",
    DenialCode.ALWAYS_DENIED: "no policy can grant it",
    DenialCode.INTERNAL: "the kernel's tables could not be read",
}
SHADOW, CONSULTED, SLOT_UNKNOWN, UNDERSTOOD_NOT = 1, 512, 256, 8 | 16 | 64 | 128


def enforcer_of(hook: int) -> EnforcerName:
    """Return which enforcer a hook belongs to."""
    if 60 <= hook < 70:
        return "cgroup-bpf"
    return "bpf-lsm"


class RawRecord(msgspec.Struct, frozen=True):
    """struct pyi_record and its text."""

    monotonic_ns: int
    sandbox: int
    epoch: int
    policy: int
    shadow: int
    generation: int
    pid: int
    tid: int
    reserved: int
    sequence: int
    hook: int
    flags: int
    error: int
    syscall: int
    capability: int
    verdict: int
    code: int
    slot_capability: int
    slot_verdict: int
    family: int
    port: int
    address: bytes
    detail: int
    rights: int
    text_bytes: int
    text: bytes = b""

    @property
    def deciding_policy(self) -> int:
        """The index of the policy that refused."""
        return self.shadow if self.flags & SHADOW else self.policy


def parse(data: bytes) -> RawRecord:
    """Read one record from the ring buffer."""
    fields = HEADER.unpack_from(data)
    start = HEADER.size + _PREFIX
    text = data[start : start + min(fields[-1], len(data) - start)]
    return RawRecord(*fields, text=text)  # type: ignore[misc]  # the header has all fields but this


def kernel_record(raw: RawRecord, sandbox_id: str, policy: CompiledPolicy | None) -> KernelRecord:
    """Return the record with its names; `policy` is the one that refused, for the rules' texts."""
    capability = CAPABILITY_BY_NUMBER[raw.capability]
    target = target_of(raw, capability)
    capability = _refined(capability, target, policy)
    code = CODES.get(raw.code)
    if policy is not None and policy.denying(capability, code) is not None:
        code = DenialCode.EXPLICIT_DENY
    rule, presented, reason = _why(raw, capability, target, code, policy)
    unknown = bool(raw.flags & SLOT_UNKNOWN)
    consulted = bool(raw.flags & CONSULTED)
    return KernelRecord(
        sandbox_id=sandbox_id,
        enforcer=enforcer_of(raw.hook),
        hook=HOOKS.get(raw.hook, f"hook {raw.hook}"),
        capability=capability,
        target=target,
        verdict=VERDICTS[raw.verdict],
        errno=raw.error,
        evaluation=Evaluation.ENFORCED,
        syscall=syscall_name(raw.syscall) if raw.syscall >= 0 else None,
        code=code,
        reason=reason,
        rule=rule,
        presented=presented,
        pid=raw.pid,
        tid=raw.tid,
        monotonic_ns=raw.monotonic_ns,
        generation=raw.generation,
        sequence=raw.sequence,
        slot_capability=CAPABILITY_BY_NUMBER.get(raw.slot_capability) if consulted else None,
        slot_verdict=SLOT_VERDICTS.get(raw.slot_verdict) if consulted else None,
        broker_consulted=None if unknown else consulted,
        shadow=bool(raw.flags & SHADOW),
    )


def _refined(capability: Capability, target: str, policy: CompiledPolicy | None) -> Capability:
    """Tell reading the random devices from reading files: rules of their own speak of them."""
    if capability is Capability.FS_READ and policy is not None and target in ("/dev/random", "/dev/urandom"):
        for rule in policy.fs:
            if rule.path == target and rule.origin == "random" and rule.deny & FsRight.READ:
                return Capability.RANDOM_READ
    return capability


def _why(
    raw: RawRecord, capability: Capability, target: str, code: DenialCode | None, policy: CompiledPolicy | None
) -> tuple[str | None, str | None, str]:
    """Return rule, presented grant and reason. The tables are the policy's: its own words come from the broker."""
    for bit, reason in _FLAG_REASONS:
        if raw.flags & bit:
            return None, None, reason
    reason = _REASONS[code].format(capability=capability.value) if code is not None else ""
    if policy is None or code is None or code is DenialCode.ALWAYS_DENIED:
        return None, None, reason
    decision = Broker(policy).decide(capability, target, path=target)
    if decision.verdict is Verdict.ALLOW:
        return None, None, reason  # the broker sees it otherwise: the event shows both
    return decision.rule, decision.presented, decision.reason or reason


# -- targets ----------------------------------------------------------------------------------------------------------


def target_of(raw: RawRecord, capability: Capability) -> str:
    """Return what the call was about, in the broker's notation."""
    if raw.text:
        path = os.fsdecode(raw.text)
        if raw.flags & 2:
            path += "..."
        return f"unix:{path}" if capability.family == "net" else path
    if raw.family in (socket.AF_INET, socket.AF_INET6):
        return address_text(raw.family, raw.address, raw.port)
    if raw.family == socket.AF_UNIX:
        return "unix:@"
    return _described(raw, capability)


def address_text(family: int, address: bytes, port: int) -> str:
    """Return "host:port"; a mapped address as the IPv4 address that it is."""
    if address[:12] == b"\0" * 10 + b"\xff\xff":
        return f"{socket.inet_ntop(socket.AF_INET, address[12:])}:{port}"
    return f"[{socket.inet_ntop(socket.AF_INET6, address)}]:{port}"


def _described(raw: RawRecord, capability: Capability) -> str:
    if capability is Capability.PROCESS_FORK:
        return "fork"
    if capability is Capability.NET_SOCKET and raw.detail:
        return socket_text(raw.detail >> 32, (raw.detail >> 16) & 0xFFFF, raw.detail & 0xFFFF)
    if capability is Capability.PROCESS_SIGNAL and raw.detail:
        number = raw.detail >> 32
        return f"pid {raw.detail & 0xFFFFFFFF} {signal_name(number)}" if number else f"pid {raw.detail & 0xFFFFFFFF}"
    if capability is Capability.PROCESS_TRACE and raw.detail:
        return f"pid {raw.detail & 0xFFFFFFFF}"
    if capability is Capability.MEMORY_EXEC:
        return "anonymous memory"
    if raw.flags & 128:
        return "a file without a path"
    name = syscall_name(raw.syscall) if raw.syscall >= 0 else HOOKS.get(raw.hook, "unknown")
    return f"{name} {raw.detail:#x}" if raw.detail else name
