"""Which limit an exception that the guest did not catch stands for.

The kernel reports a full table to a guest by an errno (EMFILE, EFBIG, EAGAIN); uncaught, the host raises the limit's
own exception. What the kernel counted is taken from the kernel, the rest from the guest's word, and recorded as such.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from ..capability import Capability
from ..decision import DenialCode, Verdict
from ..errors import LimitExceeded
from ..records import BrokerRecord
from ..telemetry.event import DenialEvent
from .exceeded import ExceededLimit, filled

if TYPE_CHECKING:
    from ..policy.compiled import Limits
    from .usage import Filling, Usage


_NO_SOFT_LIMITS: Mapping[str, int] = MappingProxyType({})


class Failure(Protocol):
    """An exception of the guest's, as its host got it."""

    @property
    def type_name(self) -> str:
        """Name of the exception's class."""
        ...

    @property
    def message(self) -> str:
        """The exception's text."""
        ...

    @property
    def errno(self) -> int | None:
        """The errno of an OSError."""
        ...


class Subject(Protocol):
    """The sandbox, as far as a diagnosis needs it."""

    @property
    def name(self) -> str:
        """For error text."""
        ...

    @property
    def limits(self) -> Limits:
        """The limits in force."""
        ...

    def record_limit(self, capability: Capability, target: str, reason: str) -> DenialEvent:
        """Record that a limit was reached, as the host saw it."""
        ...

    def record_reported_limit(self, record: BrokerRecord) -> DenialEvent | None:
        """Record that a limit was reached, as the guest reports it."""
        ...


def diagnose_limit(
    subject: Subject,
    failure: Failure,
    usage: Usage | None,
    *,
    descriptors: int | None = None,
    refused: DenialEvent | None = None,
    filling: Filling | None = None,
    full: DenialEvent | None = None,
    opened: DenialEvent | None = None,
    grown: DenialEvent | None = None,
    soft: Mapping[str, int] = _NO_SOFT_LIMITS,
) -> LimitExceeded | None:
    """Return the limit's exception, its event recorded, or None when the exception is about something else.

    `descriptors`: how many the guest's table has had room for, None where that is unknown. `refused`: the event of
    processes and threads that the kernel refused, where it was recorded already; `full` that of a full workspace, whose
    `filling` is as it was found; `opened` and `grown` those of the last descriptor that the listener
    saw not made, and of the last file that did not grow; `soft` the guest's resource limits: one below the policy's is
    its own, and so is what that refuses.
    """
    limits = subject.limits
    if _is_own(failure, limits, soft):
        return None
    if failure.errno == errno.EMFILE and limits.open_files is not None:
        # mq_open(3) and inotify say EMFILE for limits of their own: the table was never full then.
        if descriptors is not None and descriptors < limits.open_files:
            return None
        used = limits.open_files + 1
        if opened is not None:
            return _with(ExceededLimit(limit="open_files", used=used, allowed=used - 1).to_error(subject.name), opened)
        return _from_guest(subject, failure, Capability.LIMIT_OPEN_FILES, used, used - 1)
    if failure.errno == errno.EFBIG and limits.file_size_bytes is not None:
        size = limits.file_size_bytes
        if grown is not None:
            return _with(ExceededLimit(limit="file_size", used=size + 1, allowed=size).to_error(subject.name), grown)
        return _from_guest(subject, failure, Capability.LIMIT_FILE_SIZE, size + 1, size)
    # another file system may be full: only beside a full workspace it is the limit
    if failure.errno == errno.ENOSPC and filling is not None and (full is not None or filling.exhausted):
        met = filled(limits, filling)
        if full is None:
            return _from_guest(subject, failure, Capability(f"limit.{met.limit}"), met.used, met.allowed)
        return _with(met.to_error(subject.name), full)
    starts = failure.errno == errno.EAGAIN or "start new thread" in failure.message
    if starts and limits.processes is not None:
        exceeded = ExceededLimit(limit="processes", used=limits.processes + 1, allowed=limits.processes)
        if usage is not None and usage.pids_refused > 0:
            event = refused or subject.record_limit(
                Capability.LIMIT_PROCESSES, f"{limits.processes}", f"the kernel refused {usage.pids_refused}"
            )
            return _with(exceeded.to_error(subject.name), event)
        if usage is None or usage.processes < limits.processes:
            # EAGAIN is also the answer of a socket that does not block: without a full table it is no limit.
            return None
        return _from_guest(subject, failure, Capability.LIMIT_PROCESSES, exceeded.used, exceeded.allowed)
    if limits.memory_bytes is not None and usage is not None:
        used = max(usage.memory_bytes, usage.memory_peak_bytes)
        # ENOMEM has other causes too, such as a range that is not mapped: only beside much memory is it the limit.
        if failure.type_name == "MemoryError" or (failure.errno == errno.ENOMEM and used > limits.memory_bytes / 2):
            return _from_guest(subject, failure, Capability.LIMIT_MEMORY, used, limits.memory_bytes)
    return None


def _is_own(failure: Failure, limits: Limits, soft: Mapping[str, int]) -> bool:
    """Tell whether the guest has lowered the limit that its exception is about, below what the policy says."""

    def lowered(resource: str, allowed: int | None) -> bool:
        return allowed is not None and soft.get(resource, allowed) < allowed

    if failure.type_name == "MemoryError" or failure.errno == errno.ENOMEM:
        return any(lowered(name, limits.memory_bytes) for name in ("Max address space", "Max data size"))
    if failure.errno == errno.EMFILE:
        return lowered("Max open files", limits.open_files)
    return failure.errno == errno.EFBIG and lowered("Max file size", limits.file_size_bytes)


def _from_guest(
    subject: Subject, failure: Failure, capability: Capability, used: float, allowed: float
) -> LimitExceeded:
    record = BrokerRecord(
        sequence=0,
        capability=capability,
        target=f"{allowed:.0f}",
        verdict=Verdict.DENY,
        code=DenialCode.LIMIT_EXCEEDED,
        reason=f"{failure.type_name}: {failure.message}"[:500],
        errno=failure.errno,
    )
    event = subject.record_reported_limit(record)
    limit = capability.value.partition(".")[2]
    cause = f"the guest reports it, as {failure.type_name[:80]}"
    error = ExceededLimit(limit=limit, used=used, allowed=allowed, cause=cause).to_error(subject.name)
    return _with(error, event)


def _with(error: LimitExceeded, event: DenialEvent | None) -> LimitExceeded:
    error.denial_event = event
    return error
