"""The one place where a native result becomes an exception."""

from __future__ import annotations

import errno
import os

from ..errors import SandboxError, with_hint

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
_SHORTAGES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ETOOMANYREFS))


def advice(number: int | None) -> str | None:
    """Return what to do about an errno, or None."""
    return _HINTS.get(number) if number is not None else None


def is_shortage(number: int | None) -> bool:
    """Say whether an errno means that the host has run short of something for now."""
    return number in _SHORTAGES


def cause_of(error: OSError) -> str:
    """Return why a call failed, without the hint that `check` adds."""
    return str(getattr(error, "summary", None) or error.strerror or error)


def cause_in_host(error: BaseException) -> tuple[str, int | None] | None:
    """Return (cause, errno) of what this process ran into; None for an error that says nothing of the host.

    A shortage is met as an OSError, a MemoryError, or the RuntimeError of a thread that cannot be started.
    """
    if isinstance(error, OSError):
        return cause_of(error), error.errno
    if isinstance(error, MemoryError):
        return "out of memory", errno.ENOMEM
    if isinstance(error, RuntimeError) and "start new thread" in str(error):  # threading.Thread.start
        return str(error), errno.EAGAIN
    return None


def without_hint(error: BaseException) -> str:
    """Return an error's text as `str` gives it, but for the hint."""
    summary = getattr(error, "summary", None)
    if isinstance(error, SandboxError) or summary is None:
        return str(error if summary is None else summary)
    return str(OSError(getattr(error, "errno", None), summary))


def check(result: int, operation: str, subject: object = "", *, hint: str | None = None) -> int:
    """Return `result`, or raise the OSError that `-errno` stands for: "operation subject: cause. Hint: ...".

    It has the fields `operation`, `subject`, `cause`, `summary` and `hint`, as a `SandboxError` has.
    """
    if result >= 0:
        return result
    number = -result
    where = f"{operation} {subject}" if subject != "" else operation
    next_step = hint or advice(number)
    cause = os.strerror(number)
    summary = f"{where}: {cause}"
    error = OSError(number, with_hint(summary, next_step))  # Python chooses the subclass by errno
    parts = {"operation": operation, "subject": str(subject) or None, "cause": cause}
    vars(error).update(parts, summary=summary, hint=next_step)
    raise error
