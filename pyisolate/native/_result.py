"""The one place where a native result becomes an exception."""

from __future__ import annotations

import errno
import os

#: errno -> what to try. An operation's own hint comes first.
_HINTS = {
    errno.ENOSYS: "this kernel lacks the system call, or a seccomp filter around this process hides it",
    errno.EPERM: "needs a capability or a user namespace that this process lacks; `pyisolate doctor` names it",
    errno.EOPNOTSUPP: "the feature is compiled in but not enabled at boot",
    errno.EMFILE: "raise the limit on open files (RLIMIT_NOFILE), or close sandboxes",
    errno.ENFILE: "the machine's table of open files is full (fs.file-max)",
    errno.ENOMEM: "the machine, or this process's control group, is out of memory",
    errno.EAGAIN: "the limit on processes is reached (RLIMIT_NPROC, pids.max, kernel.pid_max), or memory is short",
    errno.ETOOMANYREFS: "too many descriptors are on their way between processes: raise RLIMIT_NOFILE",
    errno.E2BIG: "at most 16 Landlock layers can be stacked: is this process sandboxed already?",
    errno.EUSERS: "the limit on nested user namespaces is reached (user.max_user_namespaces)",
    errno.ENOSPC: "a kernel limit on namespaces or mounts is reached (user.max_*_namespaces, fs.mount-max)",
}

#: What a host runs short of and has again later. A probe that met one of these has proven nothing.
_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ETOOMANYREFS)


def advice(number: int | None) -> str | None:
    """Return what to do about an errno, or None."""
    return _HINTS.get(number) if number is not None else None


def shortage(text: str) -> int | None:
    """Return the errno of a shortage that an error's text speaks of, or None."""
    return next((number for number in _SHORTAGES if os.strerror(number) in text), None)


def check(result: int, operation: str, subject: object = "", *, hint: str | None = None) -> int:
    """Return `result`, or raise the OSError that `-errno` stands for: "operation, subject: cause. Hint: ..."."""
    if result >= 0:
        return result
    number = -result
    where = f"{operation} {subject}" if subject != "" else operation
    next_step = hint or advice(number)
    text = f"{where}: {os.strerror(number)}"
    raise OSError(number, f"{text}. Hint: {next_step}" if next_step else text)
