"""seccomp filters of cells and sandbox threads: which calls go through, which ask the listener, which fail.

A filter does not depend on the policy: it is compiled once per kind and loaded while a cell waits in the pool. With a
listener (`kernel/seccomp/listener.py`) every call that is not on the list is notified, so that each refusal is decided
and recorded by the supervisor; without one it fails with EPERM. Calls of a foreign architecture (i386, x32) fail with
ENOSYS in both cases: the numbers mean other calls there, and glibc never makes them.
"""

from __future__ import annotations

import collections
import errno
import functools

from ...capability import Capability
from ...choices import CellKind
from ...native.notify import FOREIGN
from ...native.quiet import QuietCall
from ...native.seccomp import ALLOW, NOTIFY, Compare, FilterRule, FilterSpec, compile_filter, number_of, refuse
from ...policy.sockets import socket_text
from .syscalls import (
    ALLOWED,
    CAPABILITY_OF,
    CONDITIONAL,
    CONDITIONAL_CELL,
    CONDITIONAL_NATIVE,
    CONDITIONAL_THREAD,
    FORKING,
    IOCTLS,
    LOOKS_AT_OPEN,
    MAPS_CODE,
    PRCTLS,
    QUIET,
    QUIET_LOOKS,
    REPORTED_WHEN_FULL,
    UNREADABLE,
    UNWATCHED,
)

_HIGHEST_NUMBER = 1023
_X32 = 0x40000000  # __X32_SYSCALL_BIT


def cell_program(
    *, notify: bool = True, random: bool = True, full: bool = False, native: bool = False, forks: bool = False
) -> bytes:
    """Return the BPF program for cells (compiled once).

    `notify` False fails what is not allowed with EPERM instead of asking a listener. `random` False asks the listener
    about getrandom (deny: `random.read`). `full` also notifies file calls for telemetry. `native` is for a cell whose
    control group's programs judge the addresses it connects and sends to. `forks` lets it fork without asking: a call
    that waits for the listener fails with EINTR when a signal comes before the listener has received it, which fork(2)
    never does and shells do not expect.
    """
    return _program("native" if native else "cell", notify, random, full, forks)


def thread_program(*, notify: bool = True, random: bool = True, full: bool = False) -> bytes:
    """Return the BPF program for sandbox threads, who share their process with the host."""
    return _program("thread", notify, random, full, False)


@functools.cache
def _program(kind: CellKind, notify: bool, random: bool, full: bool, forks: bool) -> bytes:
    return compile_filter(filter_spec(kind, notify=notify, random=random, full=full, forks=forks))


@functools.cache
def random_filter() -> bytes:
    """Return a second, tiny filter that fails getrandom with EPERM, to be loaded at hand-out.

    A task has one listener at most and a plain errno outranks a notification, so its refusals are not recorded by the
    kernel side. It closes the system call only: from 6.11 the vDSO hands out random bytes without one, and the
    processor has RDRAND.
    """
    rules = (FilterRule("getrandom", refuse(errno.EPERM)),)
    return compile_filter(FilterSpec(rules, default=ALLOW, foreign=refuse(errno.ENOSYS)))


@functools.cache
def quiet_calls(*, looks_alone: bool = False) -> tuple[QuietCall, ...]:
    """Return what a cell's own C library may do without notification: file calls while they succeed, and look-ups."""
    numbered = ((number_of(name), mode) for name, mode in (QUIET_LOOKS | ({} if looks_alone else QUIET)).items())
    return tuple(QuietCall(number, mode) for number, mode in numbered if number >= 0)


def filter_spec(kind: CellKind, *, notify: bool, random: bool, full: bool, forks: bool = False) -> FilterSpec:
    """Return the filter as data. `kind` is "cell", "native" (a cell on the host's network) or "thread"."""
    if kind not in ("cell", "native", "thread"):
        raise ValueError(f"make a seccomp filter, {kind!r}: no such kind. Hint: cell or thread")
    native = kind == "native"
    kind = "cell" if native else kind
    default = NOTIFY if notify else refuse(errno.EPERM)
    reported = REPORTED_WHEN_FULL if full and notify else {}
    rules = [
        FilterRule(call)
        for group in ALLOWED
        if kind == "cell" or not group.cell_only
        for call in group.calls
        if call not in reported
    ]
    own = CONDITIONAL_CELL if kind == "cell" else CONDITIONAL_THREAD
    watched = {MAPS_CODE} if reported and kind == "cell" else set()
    rules += [rule for rule in (*CONDITIONAL, *own) if rule.syscall not in reported and rule not in watched]
    rules += LOOKS_AT_OPEN if reported else ()
    if native:
        replaced = {rule.syscall for rule in CONDITIONAL_NATIVE}
        rules = [rule for rule in rules if rule.syscall not in replaced] + list(CONDITIONAL_NATIVE)
    if random:
        rules.append(FilterRule("getrandom"))
    if forks:
        rules += FORKING
    if not notify:
        rules += UNWATCHED if kind == "cell" else UNREADABLE
    return FilterSpec(tuple(_without_subsumed(rules)), default, NOTIFY if notify else refuse(errno.ENOSYS))


def _without_subsumed(rules: list[FilterRule]) -> list[FilterRule]:
    """Drop conditional rules of calls that are allowed outright, and rules that a wider one covers."""
    wide = {rule.syscall for rule in rules if rule.action == ALLOW and not rule.when}
    of_call: dict[str, list[FilterRule]] = collections.defaultdict(list)
    for rule in rules:
        of_call[rule.syscall].append(rule)
    kept: list[FilterRule] = []
    for rule in rules:
        wider = any(set(other.when) < set(rule.when) for other in of_call[rule.syscall])
        if not wider and (not rule.when or rule.syscall not in wide):
            kept.append(rule)
    return kept


@functools.cache
def syscall_numbers() -> dict[int, str]:
    """Return number -> name for every call that the tables name and this architecture has."""
    names = {call for group in ALLOWED for call in group.calls}
    names |= {rule.syscall for rule in CONDITIONAL} | set(CAPABILITY_OF) | set(REPORTED_WHEN_FULL)
    numbered = {number_of(name): name for name in sorted(names)}
    return {number: name for number, name in numbered.items() if 0 <= number <= _HIGHEST_NUMBER}


def syscall_name(number: int) -> str:
    """Return the call's name; `syscall_<number>`, `i386_<number>` or `x32_<number>` where the tables have none."""
    if number & FOREIGN:
        return f"i386_{number & 0xFFFF}"
    if number & _X32:
        return f"x32_{number & 0xFFFF}"
    return syscall_numbers().get(number, f"syscall_{number}")


def capability_of(syscall: str) -> Capability:
    """Return the capability that a refused call asks for; `kernel.syscall` for an unknown one."""
    return CAPABILITY_OF.get(syscall, Capability.KERNEL_SYSCALL)


_IOCTL_NAMES = {value: name for name, value in IOCTLS.items()} | {
    0x5412: "TIOCSTI",
    0x541C: "TIOCLINUX",
    0x5402: "TCSETS",
    0x5414: "TIOCSWINSZ",
    0x540E: "TIOCSCTTY",
    0x8912: "SIOCGIFCONF",
    0x8933: "SIOCGIFINDEX",
}
_PRCTL_NAMES = {value: f"PR_{name}" for name, value in PRCTLS.items()} | {
    1: "PR_SET_PDEATHSIG",
    4: "PR_SET_DUMPABLE",
    22: "PR_SET_SECCOMP",
    24: "PR_CAPBSET_DROP",
    28: "PR_SET_SECUREBITS",
    35: "PR_SET_MM",
    47: "PR_CAP_AMBIENT",
    0x59616D61: "PR_SET_PTRACER",
}


def _signed(value: int) -> int:
    return (value & 0xFFFFFFFF) - (1 << 32) if value & 0x80000000 else value & 0xFFFFFFFF


def describe(syscall: str, args: tuple[int, ...]) -> str:
    """Return the target text of a refused call from its register arguments, such as `ioctl(TIOCSTI)`."""
    a = (*args, *(0,) * (6 - len(args)))
    low = [value & 0xFFFFFFFF for value in a]
    match syscall:
        case "ioctl":
            detail = _IOCTL_NAMES.get(low[1], hex(low[1]))
        case "prctl":
            detail = _PRCTL_NAMES.get(low[0], str(low[0]))
        case "fcntl" | "seccomp" | "bpf" | "keyctl":
            detail = f"command {low[1] if syscall == 'fcntl' else low[0]}"
        case "socket" | "socketpair":
            detail = f"{socket_text(a[0], a[1])}, protocol {low[2]}"
        case "setsockopt":
            detail = f"level {_signed(low[1])}, option {low[2]}"
        case "clone" | "clone3" | "unshare":
            detail = f"flags {low[0]:#x}"
        case "setns":
            detail = f"type {low[1]:#x}"
        case "mmap" | "mprotect" | "pkey_mprotect":
            rights = "".join(letter for bit, letter in ((1, "r"), (2, "w"), (4, "x")) if low[2] & bit)
            anonymous = " anonymous" if syscall == "mmap" and low[3] & 0x20 else ""
            detail = f"{rights}{anonymous}, {a[1]} bytes"
        case "kill" | "tkill" | "pidfd_send_signal" | "rt_sigqueueinfo":
            detail = f"{_signed(low[0])}, signal {low[1]}"
        case "tgkill" | "rt_tgsigqueueinfo":
            detail = f"{_signed(low[1])}, signal {low[2]}"
        case "ptrace":
            detail = f"request {low[0]}, {_signed(low[1])}"
        case "prlimit64":
            detail = f"{_signed(low[0])}, resource {low[1]}"
        case "setrlimit":
            detail = f"resource {low[0]}"
        case "process_vm_readv" | "process_vm_writev" | "pidfd_open" | "setuid" | "setgid" | "kcmp":
            detail = str(_signed(low[0]))
        case "sched_setaffinity" | "sched_setscheduler" | "sched_setparam" | "sched_setattr":
            detail = str(_signed(low[0]))
        case "setpriority":
            detail = str(_signed(low[1]))
        case "open" | "creat" | "chmod" | "fchmod" | "mknod":
            detail = f"mode {low[2] if syscall == 'open' else low[1]:#o}"
        case "openat" | "fchmodat" | "mknodat":
            detail = f"mode {low[3] if syscall == 'openat' else low[2]:#o}"
        case _:
            detail = ""
    return f"{syscall}({detail})"


__all__ = [
    "Compare",
    "capability_of",
    "cell_program",
    "describe",
    "filter_spec",
    "random_filter",
    "syscall_name",
    "syscall_numbers",
    "thread_program",
]
