"""From a record of the listener to a `KernelRecord`: names, targets and rules instead of numbers."""

from __future__ import annotations

import errno
import os
import re
import resource
import socket

from ...capability import CAPABILITY_BY_NUMBER, CAPABILITY_NUMBER, CATALOGUE, FLOOR, Capability, NetAction
from ...choices import EnforcerName
from ...decision import DenialCode, Verdict
from ...limits import exceeded
from ...limits.rlimit import within_host
from ...native import notify as native
from ...native.quiet import first_error
from ...policy import addresses
from ...policy.asking import asks_about
from ...policy.broker import SPECIAL_FILE
from ...policy.compiled import CompiledPolicy
from ...policy.near_grants import NearGrants
from ...policy.sockets import socket_text
from ...records import LINKING, AskAnswer, Asked, CallStage, Evaluation, KernelRecord, Met
from ..expected_files import is_for_names
from .filter import describe, syscall_name
from .syscalls import HOOKED, LIMITED, SETPIPE_SZ, TERMINAL_IOCTLS, TWO_NAMES

ENFORCER: EnforcerName = "seccomp-notify"

VERDICTS = {native.ALLOW: Verdict.ALLOW, native.DENY: Verdict.DENY, native.WOULD_DENY: Verdict.WOULD_DENY}
#: Not refusals: only the "full" telemetry shows them.
SILENT_VERDICTS = frozenset({Verdict.ALLOW})
STAGES: dict[int, CallStage] = {
    native.STAGE_GONE: "gone",
    native.STAGE_WAITS: "waits",
    native.STAGE_WENT_ON: "went_on",
}
_CODES = {
    native.NOT_GRANTED: DenialCode.NOT_GRANTED,
    native.SCOPE_INSUFFICIENT: DenialCode.SCOPE_INSUFFICIENT,
    native.EXPLICIT_DENY: DenialCode.EXPLICIT_DENY,
    native.ALWAYS_DENIED: DenialCode.ALWAYS_DENIED,
    native.INTERNAL: DenialCode.INTERNAL,
    native.LIMIT_EXCEEDED: DenialCode.LIMIT_EXCEEDED,
}
_MET: dict[int, Met] = {native.MET_NOTHING: "nothing", native.MET_LINK: "link", native.MET_OTHER: "other"}
_ANSWERS: dict[int, AskAnswer] = {
    native.REPLY_YES: "once",
    native.REPLY_NO: "deny",
    native.REPLY_FULL: "full",
    native.REPLY_LATE: "timeout",
    native.REPLY_GONE: "gave_up",
}
_REASONS = {
    DenialCode.NOT_GRANTED: "the policy grants no {capability}",
    DenialCode.SCOPE_INSUFFICIENT: "no rule reaches this target",
    DenialCode.EXPLICIT_DENY: "a rule denies it",
    DenialCode.ALWAYS_DENIED: "no policy can grant it",
    DenialCode.INTERNAL: "the listener could not read what was asked for",
    DenialCode.LIMIT_EXCEEDED: "it would be memory of the kernel's that counts for no sandbox",
}
#: What exceeds a limit of the listener's own, by call.
_IN_FLIGHT = (
    "more descriptors would be in flight than the sandbox may have open, or than its part of what all sandboxes "
    "together may have in flight"
)
_LIMITS = {
    "sendmsg": _IN_FLIGHT,
    "sendmmsg": _IN_FLIGHT,
    **dict.fromkeys(LIMITED, "the sandbox has as many files open as it may"),
    "write": "a file may not grow beyond the limit, as the guest's handler of SIGXFSZ reports",
    "fallocate": "the workspace has no room left for what was to be allocated, as the guest's C library reports",
    **dict.fromkeys(
        ("mmap", "memfd_create"),
        "huge pages are the host's, and count for no sandbox. Hint: transparent ones are not limited",
    ),
    "F_SETPIPE_SZ": "a pipe may not be larger than it is made: the kernel counts pipes by user, and bounds their sum",
    "fcntl": "record locks are memory that counts for no sandbox: a process has 1024 of its own, and no others. "
    "Hint: fcntl.flock",
}
#: Calls that the filter stops for their mode argument alone.
_BY_MODE = frozenset({"open", "openat", "creat", "chmod", "fchmod", "fchmodat", "fchmodat2", "mknod", "mknodat"})
_IN_MEMORY = "openat2 is never allowed: its flags are in memory, where no filter sees them. Hint: openat"
_UNKNOWN_CALL = "no policy can grant calls of another architecture, nor those that pyisolate does not know"
_OF_PROCESS = "a sandbox thread shares its process's directory and mask with the host. Hint: process isolation"
_NO_SUCH_TASK = "no process or thread of the sandbox has this number, and no other can be reached"
_NO_OTHER_TASK = "the sandbox has no other process that it may signal, and none outside of it can be reached"
_MULTIPATH = (
    "multipath TCP opens connections of its own, to addresses that no rule names. Hint: plain TCP, or "
    "Supervisor(network='listener'), which serves it as such"
)
_IPPROTO_MPTCP = 262
#: Parts of a path that lead nowhere, which no rule and no hook spells.
_SAME_PLACE = re.compile(r"/(?:\./|/)+")
#: Look-ups that may be about a link itself, with the argument that says so; -1: they always are.
_LOOKS = dict.fromkeys(("lstat", "readlink", "readlinkat", "lgetxattr", "llistxattr"), -1) | {
    "newfstatat": 3,
    "faccessat2": 3,
    "statx": 2,
}
#: Look-ups that ask to use what they find: the argument that says for what; -1: they always do.
_USES = {"chdir": -1, "access": 1, "faccessat": 2, "faccessat2": 2}
#: Calls that change a link itself, or may: which argument has AT_SYMLINK_NOFOLLOW, -1 where none is needed.
_CHANGES = {"lchown": -1, "lsetxattr": -1, "lremovexattr": -1, "fchownat": 4, "utimensat": 3, "fchmodat2": 3}
_AT_SYMLINK_NOFOLLOW, _AT_SYMLINK_FOLLOW = 0x100, 0x400  # linux/fcntl.h
_O_ACCMODE, _O_CREAT, _O_TMPFILE = 0o3, 0o100, 0o20000000


def kernel_record(
    record: native.Record, sandbox_id: str, policy: CompiledPolicy | None, *, shadow: bool = False
) -> KernelRecord:
    """Return the record with its names; `policy` is the one that decided, for the rules' texts."""
    syscall = syscall_name(record.number)
    verdict = VERDICTS[record.verdict]
    capability = _capability(record, syscall)
    asked = CAPABILITY_BY_NUMBER[record.slot_capability] if record.asked == native.ASKED else None
    # a hook is asked about the sandbox's own processes, and this number is none's
    nobodys = capability is Capability.PROCESS_SIGNAL and record.error == errno.ESRCH
    only_program = asked is Capability.PROCESS_EXEC and capability is not asked
    code, rule = _code_and_rule(capability, record.reason, _rule_text(policy, record.rule), policy)
    if syscall == "uselib":  # kernels of today have no such call, and no rule makes one
        code = DenialCode.ALWAYS_DENIED
    target = target_of(record, syscall, capability)
    # that it is for a name is the guest's word, which stays until it asks something else: so by the file, too
    resolves = record.asked == native.RESOLVES and is_for_names(target)
    met, other = _MET.get(record.met), os.fsdecode(record.other)
    links = met == "link" and syscall not in TWO_NAMES
    if _grants_others(policy, capability, code, target):
        code = DenialCode.SCOPE_INSUFFICIENT
    sized = capability is Capability.LIMIT_FILE_SIZE and code is DenialCode.LIMIT_EXCEEDED
    fills = capability is Capability.LIMIT_WORKSPACE and policy is not None
    if fills and policy is not None:  # the smaller of two limits, of which the listener knows nothing
        capability = Capability(f"limit.{exceeded.of_bytes(policy.limits, policy.workspace_bytes or 0)[0]}")
    return KernelRecord(
        sandbox_id=sandbox_id,
        enforcer="rlimit" if sized else "root view" if fills else ENFORCER,
        hook="signal:SIGXFSZ" if sized else "tmpfs" if fills else f"seccomp:{syscall}",
        capability=capability,
        target=_limit_text(policy, code, capability, syscall) or target,
        verdict=verdict,
        errno=record.error,
        evaluation=Evaluation.ERRNO if sized or fills else Evaluation.ENFORCED,
        syscall=None if sized else syscall,
        code=code,
        reason=_reason_of(record, syscall, capability, code),
        rule=rule,
        presented=_rule_text(policy, record.presented),
        pid=record.pid,
        tid=record.tid,
        monotonic_ns=record.monotonic_ns,
        generation=policy.generation if policy is not None else 0,
        count=record.times,
        broker_consulted=None if resolves or record.asked == native.IMPORTS else _consulted(record, syscall),
        slot_capability=asked,
        # who was asked about a program has not been asked whether a process may be made for it
        slot_verdict=None if asked is None or only_program or nobodys else VERDICTS[record.slot_verdict],
        shadow=shadow,
        other="" if links else other,
        file=record.file,
        met=met,
        link=other if links else "",
        flags=_open_flags(record, syscall),
        uses=(at := _USES.get(syscall)) is not None and (at < 0 or bool(record.args[at] & 0o7)),
        resolves=resolves,
        imports=record.asked == native.IMPORTS,
        tries=2 if first_error(record.args[5]) else 1,
        refused=first_error(record.args[5]),
        answer=_answer(record, syscall, capability, verdict, policy),
        waited_ms=record.waited_ms if record.reply else None,
        question=record.question,
    )


_KNOWN_AS_WHOLE = (Capability.IMPORT_NATIVE, Capability.NET_SOCKET)


def _grants_others(policy: CompiledPolicy | None, capability: Capability, code: DenialCode | None, target: str) -> bool:
    """Tell whether others are granted, as the broker's code says, where the tables know that this one is not.

    That is native modules, of which a call is refused for all but `*`, and sockets, of one kind that is for no rule.
    """
    if policy is None or capability not in _KNOWN_AS_WHOLE or code is not DenialCode.NOT_GRANTED:
        return False
    return NearGrants(policy).grant(capability, target)[0]


def _code_and_rule(
    capability: Capability, reason: int, rule: str | None, policy: CompiledPolicy | None
) -> tuple[DenialCode | None, str | None]:
    """Return both as the broker has them: of what a policy denies as a whole the tables know that it is not granted.

    What the listener itself refuses of metadata (inotify, the process's mask) is no file's, and no rule's.
    """
    code = _CODES.get(reason)
    if capability is Capability.FS_METADATA and code is DenialCode.NOT_GRANTED:
        return DenialCode.ALWAYS_DENIED, rule
    if capability is Capability.RANDOM_READ and code is DenialCode.NOT_GRANTED:
        return DenialCode.EXPLICIT_DENY, "random: {allow: false}"
    if policy is not None and (denying := policy.denying(capability, code)) is not None:
        return DenialCode.EXPLICIT_DENY, denying
    return code, rule


def _reason_of(record: native.Record, syscall: str, capability: Capability, code: DenialCode | None) -> str:
    """Return why the listener refused a call, or that it only saw it."""
    if code is DenialCode.LIMIT_EXCEEDED:
        call = "F_SETPIPE_SZ" if syscall == "fcntl" and record.args[1] == SETPIPE_SZ else syscall
        return _LIMITS.get(call) or _reason(code, capability)
    if code is DenialCode.ALWAYS_DENIED and (why := _never(record, syscall, capability)) is not None:
        return why
    if syscall in _BY_MODE and VERDICTS[record.verdict] is Verdict.DENY and not record.reply:
        return SPECIAL_FILE
    return _reason(code, capability) if code else "seen on its way to the file enforcer"


def _never(record: native.Record, syscall: str, capability: Capability) -> str | None:
    """Return what no policy can grant of this call, where more can be said than that."""
    if record.error == errno.ENOSYS:
        return _IN_MEMORY if syscall == "openat2" else _UNKNOWN_CALL
    if record.error == errno.ESRCH:
        to_all = syscall == "kill" and record.args[0] & 0xFFFFFFFF == 0xFFFFFFFF  # kill(2): -1
        return _NO_OTHER_TASK if to_all else _NO_SUCH_TASK
    if syscall in ("chdir", "fchdir", "umask"):
        return _OF_PROCESS
    if syscall in ("prlimit64", "setrlimit") and capability.family == "limit":
        return "a hard limit is the policy's, and can only be lowered"
    return _MULTIPATH if syscall == "socket" and record.args[2] & 0xFFFFFFFF == _IPPROTO_MPTCP else None


def _answer(
    record: native.Record, syscall: str, capability: Capability, verdict: Verdict, policy: CompiledPolicy | None
) -> AskAnswer | None:
    """Return what came of a question, as far as the listener knows it; `would_ask` in monitor mode."""
    if record.reply:
        return _ANSWERS[record.reply]
    if verdict is not Verdict.WOULD_DENY or policy is None:
        return None
    unspoken = record.reason in (native.NOT_GRANTED, native.SCOPE_INSUFFICIENT)
    asked = unspoken and asks_about(policy, capability, target_of(record, syscall, capability))
    return "would_ask" if asked else None


def asked_of(question: native.Question) -> Asked:
    """Return a question with its names; a program whose name cannot be read has none."""
    named, syscall = CAPABILITY_BY_NUMBER[question.capability], syscall_name(question.system_call)
    return Asked(
        number=question.number,
        capability=named,
        target=_address_of(question) if named is Capability.NET_CONNECT else os.fsdecode(question.name),
        pid=question.pid,
        tid=question.tid,
        flags=question.flags,
        mode=question.mode,
        call=question.call,
        syscall=syscall,
        other=os.fsdecode(question.other) if syscall in TWO_NAMES else "",
        said=b"" if syscall in TWO_NAMES else question.other,
    )


def _address_of(question: native.Question) -> str:
    return _endpoint(question.family, question.address, question.port)


def _endpoint(family: int, address: bytes, port: int) -> str:
    size, kind = (4, socket.AF_INET) if family == 4 else (16, socket.AF_INET6)
    host = socket.inet_ntop(kind, address[:size])
    return f"[{host}]:{port}" if family == 6 else f"{host}:{port}"


def _consulted(record: native.Record, syscall: str) -> bool | None:
    """Return whether the broker was asked: what no hook ever asks about was not; None where it cannot be known."""
    if record.asked == native.UNKNOWN:
        hooked = syscall in HOOKED and (syscall != "ioctl" or record.args[1] & 0xFFFFFFFF in TERMINAL_IOCTLS)
        return None if hooked else False
    return record.asked == native.ASKED


#: Decided by what is granted of the capability as a whole; process.exec also by Landlock, file by file.
_WHOLE = frozenset({Capability.PROCESS_FORK, Capability.RANDOM_READ, Capability.MEMORY_EXEC})


def evaluate(
    table: native.Policy, policy: CompiledPolicy, sandbox_id: str, capability: Capability, target: str
) -> KernelRecord | None:
    """Return what a table says of an operation, without a call; None where the table does not decide it."""
    rule = presented = -1
    action = CATALOGUE[capability].action
    if action is not None:
        where = addresses.endpoint(target)
        if where is None:
            return None
        address, port = where
        if action == NetAction.CONNECT:
            address = addresses.destination(address)  # as the listener has it before it asks
        listening = capability is Capability.NET_LISTEN
        reason, rule, presented = table.ask(action, address, port, listening=listening)
        if not reason and action == NetAction.BIND and addresses.takes_ipv4(address):
            # as for a socket without IPV6_V6ONLY: with it, the broker refuses nothing that is granted here
            reason, rule, presented = table.ask(action, bytes(4), port, listening=listening)
        monitors = bool(table.flags & native.FLAG_MONITOR_NET)
    elif capability in FLOOR or capability in _WHOLE:
        act = table.acts[CAPABILITY_NUMBER[capability]]
        reason = {native.ACT_ALLOW: 0, native.ACT_FLOOR: native.ALWAYS_DENIED}.get(act, native.NOT_GRANTED)
        monitors = act == native.ACT_WATCH
    else:
        return None
    code, text = _code_and_rule(capability, reason, _rule_text(policy, rule), policy)
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
        rule=text,
        presented=_rule_text(policy, presented),
        generation=policy.generation,
    )


def _limit_text(
    policy: CompiledPolicy | None, code: DenialCode | None, capability: Capability, syscall: str
) -> str | None:
    """Return the limit on open files, or on a file's size, as its events name it, where a call met it."""
    if policy is None or code is not DenialCode.LIMIT_EXCEEDED:
        return None
    if syscall == "fallocate":
        return f"{exceeded.of_bytes(policy.limits, policy.workspace_bytes or 0)[1]} bytes"
    if capability is Capability.LIMIT_FILE_SIZE:
        return f"{within_host(resource.RLIMIT_FSIZE, policy.limits.file_size_bytes)}"
    if capability is Capability.LIMIT_OPEN_FILES and syscall in LIMITED:
        return f"{within_host(resource.RLIMIT_NOFILE, policy.limits.open_files)}"
    return None


def target_of(record: native.Record, syscall: str, capability: Capability) -> str:
    """Return what the call was about, in the broker's notation where the broker knows such operations."""
    if record.family in (4, 6):
        return _endpoint(record.family, record.address, record.port)
    if record.family == 1:
        path = os.fsdecode(record.path)
        return f"unix:@{path[1:]}" if path[:1] in ("", "\0") else f"unix:{path}"
    if record.path:
        return _SAME_PLACE.sub("/", os.fsdecode(record.path))
    if capability is Capability.PROCESS_FORK:
        return "fork"
    if capability is Capability.LIMIT_OPEN_FILES and syscall in ("sendmsg", "sendmmsg"):
        return f"{record.args[0]} descriptors to send"
    if syscall in ("socket", "socketpair"):
        return socket_text(record.args[0], record.args[1], record.args[2] & 0xFFFFFFFF)
    return describe(syscall, record.args)


def _capability(record: native.Record, syscall: str) -> Capability:
    capability = CAPABILITY_BY_NUMBER[record.capability]
    if syscall in ("open", "openat", "openat2") and capability.family == "fs":
        flags = _open_flags(record, syscall)
        if flags & (_O_CREAT | _O_TMPFILE):
            return Capability.FS_CREATE
        return Capability.FS_WRITE if flags & _O_ACCMODE else Capability.FS_READ
    return capability


def _open_flags(record: native.Record, syscall: str) -> int:
    """Return the open(2) flags of a call that opens a file, and O_NOFOLLOW of one that is about a link itself."""
    if (at := _LOOKS.get(syscall, _CHANGES.get(syscall))) is not None:
        return os.O_NOFOLLOW if at < 0 or record.args[at] & _AT_SYMLINK_NOFOLLOW else 0
    if syscall in LINKING:
        return 0 if syscall == "linkat" and record.args[4] & _AT_SYMLINK_FOLLOW else os.O_NOFOLLOW
    if syscall == "creat":
        return os.O_CREAT | os.O_WRONLY | os.O_TRUNC
    return record.args[1 if syscall == "open" else 2] if syscall in ("open", "openat", "openat2") else 0


def _reason(code: DenialCode, capability: Capability) -> str:
    return _REASONS[code].format(capability=capability.value)


def _rule_text(policy: CompiledPolicy | None, index: int) -> str | None:
    if policy is None or not 0 <= index < len(policy.net):
        return None
    return policy.net[index].text or None
