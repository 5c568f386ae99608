"""seccomp filters: compile one with libseccomp to BPF bytes, load bytes with one system call.

Sources: seccomp(2), seccomp_rule_add(3), seccomp_export_bpf(3). Needs libseccomp 2.5 (`SCMP_ACT_NOTIFY`).
"""

from __future__ import annotations

import errno
import os
from typing import Any, NamedTuple

from ._native import ffi, lib
from .process import CAP_SYS_CHROOT

ALLOW: int = lib.SECCOMP_RET_ALLOW
NOTIFY: int = lib.SECCOMP_RET_USER_NOTIF
#: AUDIT_ARCH_* of the only architecture whose calls a filter compiled here lets through.
AUDIT_ARCH: int = lib.SECCOMP_AUDIT_ARCH

# libseccomp asks the running kernel which actions it knows; a filter's meaning must not depend on the machine that
# compiled it, so the level is stated: 6 is "user notification with TSYNC", the highest of libseccomp 2.5.0.
_API_LEVEL = 6


def refuse(number: int) -> int:
    """Return the filter action that fails a call with errno `number`."""
    return int(lib.SECCOMP_RET_ERRNO) | (number & 0xFFFF)


class Compare(NamedTuple):
    """One condition on a call's argument: `(argument & mask) == value`; mask None compares all 64 bits."""

    argument: int
    value: int
    mask: int | None = None


class FilterRule(NamedTuple):
    """`action` for a system call (by name) when every condition holds."""

    syscall: str
    action: int = ALLOW
    when: tuple[Compare, ...] = ()


class FilterSpec(NamedTuple):
    """A whole filter: rules, the action for everything else, and the one for other architectures' calls."""

    rules: tuple[FilterRule, ...]
    default: int
    foreign: int


def number_of(syscall: str) -> int:
    """Return the system call's number on this architecture; negative where the architecture has none."""
    found = _LATER.get(syscall)
    return found if found is not None else int(lib.seccomp_syscall_resolve_name(syscall.encode()))


# Calls newer than libseccomp 2.5.4; from 424 on all architectures share one numbering (linux/unistd.h).
_LATER = {
    "process_mrelease": 448,
    "futex_waitv": 449,
    "set_mempolicy_home_node": 450,
    "cachestat": 451,
    "fchmodat2": 452,
    "map_shadow_stack": 453,
    "futex_wake": 454,
    "futex_wait": 455,
    "futex_requeue": 456,
    "statmount": 457,
    "listmount": 458,
    "lsm_get_self_attr": 459,
    "lsm_set_self_attr": 460,
    "lsm_list_modules": 461,
    "mseal": 462,
    "setxattrat": 463,
    "getxattrat": 464,
    "listxattrat": 465,
    "removexattrat": 466,
    "open_tree_attr": 467,
    "file_getattr": 468,
    "file_setattr": 469,
}


def compile_filter(spec: FilterSpec) -> bytes:
    """Return the spec as a classic BPF program (an array of `struct sock_filter`).

    Names that this architecture does not have are left out. Raises `OSError` with libseccomp's errno and the rule.
    """
    lib.seccomp_api_set(_API_LEVEL)
    context = lib.seccomp_init(spec.default)
    if context == ffi.NULL:
        raise OSError(errno.EINVAL, "compile a seccomp filter: libseccomp refused the default action")
    try:
        _check(lib.seccomp_attr_set(context, lib.SCMP_FLTATR_ACT_BADARCH, spec.foreign), "foreign architectures")
        _check(lib.seccomp_attr_set(context, lib.SCMP_FLTATR_CTL_OPTIMIZE, 2), "binary tree")
        for rule in spec.rules:
            _add(context, rule)
        return _export(context)
    finally:
        lib.seccomp_release(context)


def _add(context: object, rule: FilterRule) -> None:
    number = number_of(rule.syscall)
    if number < 0:
        return
    conditions = ffi.new("struct scmp_arg_cmp[]", max(1, len(rule.when)))
    for slot, (argument, value, mask) in zip(conditions, rule.when, strict=False):
        slot.arg = argument
        if mask is None:
            slot.op, slot.datum_a = lib.SCMP_CMP_EQ, value
        else:
            slot.op, slot.datum_a, slot.datum_b = lib.SCMP_CMP_MASKED_EQ, mask, value
    _check(
        lib.seccomp_rule_add_array(context, rule.action, number, len(rule.when), conditions),
        f"{rule.syscall}, conditions {rule.when}",
    )


def _export(context: object) -> bytes:
    fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    try:
        _check(lib.seccomp_export_bpf(context, fd), "export to BPF")
        return os.pread(fd, os.fstat(fd).st_size, 0)
    finally:
        os.close(fd)


def _check(result: int, subject: str) -> None:
    if result < 0:
        raise OSError(-result, f"compile a seccomp filter, {subject}: {os.strerror(-result)}")


def install(program: bytes, *, notify: bool, log: bool = False) -> int | None:
    """Load a filter on the calling thread for good; with `notify` return its listener's descriptor (close-on-exec).

    Sets no_new_privs first. With `notify`, `sendmsg` itself is a notified call from then on: use `install_and_send`
    where the listener must leave the process. Signals that do not kill wait until a call in the listener's hands is
    answered (5.19; before, they interrupt it and the call is made again).

    Raises `OSError`: EBUSY when a listener already exists above, ENOMEM past 32768 instructions in all filters.
    """
    _no_new_privs()
    if not notify:
        _loaded(lib.seccomp_install(program, len(program), int(lib.SECCOMP_FILTER_FLAG_LOG) if log else 0))
        return None
    result = -errno.EINVAL
    for flags in LISTENER_FLAGS:
        result = lib.seccomp_install(program, len(program), flags | (int(lib.SECCOMP_FILTER_FLAG_LOG) if log else 0))
        if result != -errno.EINVAL:
            break
    return _loaded(result)


class User(NamedTuple):
    """Whom a process becomes before it loads its filter, with CAP_SYS_CHROOT left of its capabilities."""

    uid: int
    gid: int
    dumpable: bool


def user_of(user: User) -> Any:
    """Return a user as C has it."""
    return ffi.new("struct seccomp_user *", [user.uid, user.gid, user.dumpable, 1 << CAP_SYS_CHROOT])


def install_and_send(program: bytes, peer: int, data: bytes, user: User | None = None) -> None:
    """Load a filter and send `data` with its listener (SCM_RIGHTS, with the first byte) over the socket `peer`.

    This process becomes `user` first; what sends the listener does not. The listener is closed here. For a process
    with one thread. Raises `OSError` as `install` does, or what sendmsg said; the filter stays on then, without a
    listener: every notified call fails with ENOSYS.
    """
    _no_new_privs()
    result = -errno.EINVAL
    became = ffi.NULL if user is None else user_of(user)
    for flags in LISTENER_FLAGS:
        result = lib.seccomp_install_and_send(program, len(program), flags, peer, data, len(data), became)
        if result != -errno.EINVAL:
            break
    _loaded(result)


#: How a filter is loaded with a listener. The first is 5.19's; a kernel that does not know it answers EINVAL.
LISTENER_FLAGS = (
    int(lib.SECCOMP_FILTER_FLAG_NEW_LISTENER) | int(lib.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV),
    int(lib.SECCOMP_FILTER_FLAG_NEW_LISTENER),
)


def _no_new_privs() -> None:
    if (result := lib.seccomp_no_new_privs()) < 0:
        raise OSError(-result, f"set no_new_privs: {os.strerror(-result)}")


def _loaded(result: int) -> int:
    if result < 0:
        raise OSError(-result, f"load a seccomp filter: {os.strerror(-result)}")
    return result
