"""Which limit an exception that the guest did not catch stands for.

The kernel reports a full table to a guest by an errno (EMFILE, EFBIG, EAGAIN); uncaught, the host raises the limit's
own exception. What the kernel counted is taken from the kernel, the rest from the guest's word, and recorded as such.
"""

from __future__ import annotations

import errno
import resource
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

import msgspec

from ..capability import Capability
from ..decision import DenialCode, Verdict
from ..errors import LimitExceeded
from ..records import BrokerRecord
from ..telemetry.event import DenialEvent
from .exceeded import ExceededLimit, filled
from .rlimit import process_margin, within_host

if TYPE_CHECKING:
    from ..policy.compiled import Limits
    from .usage import Filling, Usage


#: Of a limit that is the host's, because that is below the policy's.
_HOSTS = "raise the limit of the process that spawns (`ulimit -{option}`, {setting}= of systemd)"


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

    @property
    def made_no_process(self) -> bool:
        """True where it is EAGAIN of a fork that the broker had allowed, as the guest's hooks saw it."""
        ...

    @property
    def raised_by_guest(self) -> bool:
        """True where a `raise` statement of the guest's own code made it: for a limit that takes more than its word."""
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


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """What kernel and host know of a sandbox, beside the guest's word."""

    usage: Usage | None = None
    #: how many descriptors the guest's table has had room for; None: unknown
    descriptors: int | None = None
    #: how full the workspace is
    filling: Filling | None = None
    #: the guest's resource limits: one below the policy's is its own, and so is what that refuses
    soft: Mapping[str, int] = msgspec.field(default_factory=dict)
    #: the event of processes and threads that the kernel refused, where it was recorded already
    refused: DenialEvent | None = None
    #: the event of a full workspace
    full: DenialEvent | None = None
    #: the event of the last call that found no room in it, as the guest's C library said
    no_room: DenialEvent | None = None
    #: the event of the last descriptor that the listener saw not made
    opened: DenialEvent | None = None
    #: the event of the last file that did not grow
    grown: DenialEvent | None = None
    #: finds the event of an overrun that was noticed before
    noticed: Callable[[Capability], DenialEvent | None] = lambda _capability: None


def diagnose_limit(subject: Subject, failure: Failure, found: Findings) -> LimitExceeded | None:
    """Return the limit's exception, its event recorded, or None when the exception is about something else."""
    if _is_own(failure, subject.limits, found.soft):
        return None
    if failure.errno == errno.EMFILE:
        return _open_files(subject, failure, found)
    if failure.errno == errno.EFBIG:
        return _file_size(subject, failure, found)
    if failure.errno == errno.ENOSPC:
        return _workspace(subject, failure, found)
    if failure.errno == errno.EAGAIN or "start new thread" in failure.message:
        return _processes(subject, failure, found)
    return _memory(subject, failure, found)


def _open_files(subject: Subject, failure: Failure, found: Findings) -> LimitExceeded | None:
    if failure.raised_by_guest and found.opened is None:
        return None
    allowed = within_host(resource.RLIMIT_NOFILE, subject.limits.open_files)
    # mq_open(3) and inotify say EMFILE for limits of their own: the table was never full then.
    if allowed is None or (found.descriptors is not None and found.descriptors < allowed):
        return None
    met = ExceededLimit(limit="open_files", used=allowed + 1, allowed=allowed)
    if allowed != subject.limits.open_files:
        met = msgspec.structs.replace(met, hint=_HOSTS.format(option="n", setting="LimitNOFILE"))
    return _met(subject, failure, found, met, found.opened)


def _file_size(subject: Subject, failure: Failure, found: Findings) -> LimitExceeded | None:
    if failure.raised_by_guest and found.grown is None:
        return None
    if (allowed := within_host(resource.RLIMIT_FSIZE, subject.limits.file_size_bytes)) is None:
        return None
    met = ExceededLimit(limit="file_size", used=allowed + 1, allowed=allowed)
    if allowed != subject.limits.file_size_bytes:
        met = msgspec.structs.replace(met, hint=_HOSTS.format(option="f", setting="LimitFSIZE"))
    return _met(subject, failure, found, met, found.grown)


def _workspace(subject: Subject, failure: Failure, found: Findings) -> LimitExceeded | None:
    # another file system may be full: only beside a full workspace it is the limit
    event = found.full or found.no_room
    if found.filling is None or not (event is not None or found.filling.exhausted):
        return None
    met = filled(subject.limits, found.filling)
    if event is found.no_room and not found.filling.exhausted:  # tmpfs has taken back what the call had by then
        met = msgspec.structs.replace(met, cause="what was to be allocated at once found no room")
    return _met(subject, failure, found, met, event)


def _processes(subject: Subject, failure: Failure, found: Findings) -> LimitExceeded | None:
    allowed, usage = subject.limits.processes, found.usage
    if allowed is None or usage is None:
        return None
    # EAGAIN is also the answer of a socket that does not block: without a full table it is no limit. Where no control
    # group counts what was refused, the processes may be gone by now: what a fork met then is known from the call.
    backstop = found.soft.get("Max processes") == allowed + process_margin(allowed)
    unseen = failure.made_no_process and usage.source == "tree" and backstop
    if usage.pids_refused == 0 and usage.processes < allowed and not unseen:
        return None
    event = None
    if usage.pids_refused > 0:
        reason = f"the kernel refused {usage.pids_refused}"
        event = found.refused or subject.record_limit(Capability.LIMIT_PROCESSES, f"{allowed}", reason)
    return _met(subject, failure, found, ExceededLimit(limit="processes", used=allowed + 1, allowed=allowed), event)


def _memory(subject: Subject, failure: Failure, found: Findings) -> LimitExceeded | None:
    allowed, usage = subject.limits.memory_bytes, found.usage
    for which in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        allowed = within_host(which, allowed)
    if allowed is None or usage is None:
        return None
    used = max(usage.memory_bytes, usage.memory_peak_bytes)
    # ENOMEM has other causes too, such as a range that is not mapped: only beside much memory is it the limit.
    refused = failure.type_name == "MemoryError" and not failure.raised_by_guest
    if refused or (used > allowed / 2 and (failure.type_name == "MemoryError" or failure.errno == errno.ENOMEM)):
        met = ExceededLimit(limit="memory", used=used, allowed=allowed)
        if allowed != subject.limits.memory_bytes:
            met = msgspec.structs.replace(met, hint=_HOSTS.format(option="v", setting="LimitAS"))
        return _met(subject, failure, found, met, None)
    return None


def _is_own(failure: Failure, limits: Limits, soft: Mapping[str, int]) -> bool:
    """Tell whether the guest has lowered the limit that its exception is about, below what it was given."""

    def lowered(name: str, which: int, policys: int | None) -> bool:
        allowed = within_host(which, policys)
        return allowed is not None and soft.get(name, allowed) < allowed

    if failure.type_name == "MemoryError" or failure.errno == errno.ENOMEM:
        return lowered("Max address space", resource.RLIMIT_AS, limits.memory_bytes) or lowered(
            "Max data size", resource.RLIMIT_DATA, limits.memory_bytes
        )
    if failure.errno == errno.EMFILE:
        return lowered("Max open files", resource.RLIMIT_NOFILE, limits.open_files)
    return failure.errno == errno.EFBIG and lowered("Max file size", resource.RLIMIT_FSIZE, limits.file_size_bytes)


def _met(
    subject: Subject, failure: Failure, found: Findings, met: ExceededLimit, event: DenialEvent | None
) -> LimitExceeded:
    """Return the error of a limit that was met; without an event of what the kernel did, the guest's word makes one."""
    capability = Capability(f"limit.{met.limit}")
    event = event or found.noticed(capability)
    if event is None:
        met = msgspec.structs.replace(met, cause=f"the guest reports it, as {failure.type_name[:80]}")
        event = subject.record_reported_limit(
            BrokerRecord(
                sequence=0,
                capability=capability,
                target=f"{met.allowed:.0f}",
                verdict=Verdict.DENY,
                code=DenialCode.LIMIT_EXCEEDED,
                reason=f"{failure.type_name}: {failure.message}"[:500],
                errno=failure.errno,
            )
        )
    error = met.to_error(subject.name)
    error.denial_event = event
    return error
