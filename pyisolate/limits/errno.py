"""Limits that the kernel refuses with an errno: which one stands behind a guest's uncaught exception.

The exception is the guest's own word. It decides only which error its caller sees; what the kernel counted is asked
where it counts.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from ..capability import Capability
from ..errors import LimitExceeded
from ..policy.compiled import Limits
from .exceeded import ExceededLimit
from .usage import Usage

if TYPE_CHECKING:
    from ..cell.wire import Failed
    from ..sandbox import Sandbox
    from ..supervisor import Supervisor

#: Text of the RuntimeError that CPython raises when pthread_create fails (Modules/_threadmodule.c).
_NO_THREAD = "can't start new thread"


def limit_behind(supervisor: Supervisor, sandbox: Sandbox, answer: Failed) -> LimitExceeded | None:
    """Return the limit that an uncaught exception of the guest stands for, recorded as an event, or None."""
    limits = sandbox.limits
    if limit_named_by(answer.type_name, answer.message, answer.errno, limits) is None:
        return None
    found = explain(answer.type_name, answer.message, answer.errno, limits, supervisor.usage_of(sandbox))
    if found is None:
        return None
    error = found.to_error(f"sandbox {sandbox.name!r}")
    capability = Capability(f"limit.{found.limit}")
    error.denial_event = supervisor.record_limit(sandbox, capability, f"{found.allowed:g}", found.cause)
    return error


def limit_named_by(type_name: str, message: str, code: int | None, limits: Limits) -> str | None:
    """Return the limit whose refusal looks like this exception, if the policy sets it."""
    if type_name == "MemoryError":
        return "memory" if limits.memory_bytes is not None else None
    if code == errno.EMFILE:
        return "open_files" if limits.open_files is not None else None
    if code == errno.EFBIG:
        return "file_size" if limits.file_size_bytes is not None else None
    refused = code == errno.EAGAIN or (type_name == "RuntimeError" and message.startswith(_NO_THREAD))
    return "processes" if refused and limits.processes is not None else None


def explain(
    type_name: str, message: str, code: int | None, limits: Limits, usage: Usage | None
) -> ExceededLimit | None:
    """Return the limit with figures, or None when a reading says that it was something else."""
    name = limit_named_by(type_name, message, code, limits)
    if name == "memory" and limits.memory_bytes is not None:
        peak = 0 if usage is None else usage.memory_peak_bytes
        return _refused("memory", peak, limits.memory_bytes, "an allocation beyond it was refused")
    if name == "open_files" and limits.open_files is not None:
        return _refused("open_files", limits.open_files + 1, limits.open_files, "the kernel refused one more")
    if name == "file_size" and limits.file_size_bytes is not None:
        return _refused(
            "file_size", limits.file_size_bytes + 1, limits.file_size_bytes, "the kernel refused to write on"
        )
    if name == "processes" and limits.processes is not None:
        # EAGAIN is also what a socket says that does not block: only the kernel's count makes it a limit.
        if usage is None or not (usage.pids_refused or usage.processes >= limits.processes):
            return None
        return _refused("processes", limits.processes + 1, limits.processes, "the kernel refused one more")
    return None


def _refused(limit: str, used: int, allowed: int, cause: str) -> ExceededLimit:
    return ExceededLimit(limit=limit, used=used, allowed=allowed, cause=cause)
