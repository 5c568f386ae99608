"""Which limit stands behind an exception that the guest did not catch.

The kernel tells a guest about a full table by an errno (EMFILE, EFBIG, EAGAIN); uncaught, the host raises the limit's
own exception. What the kernel counted is taken from the kernel, the rest from the guest's word, and recorded as such.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from ..capability import Capability
from ..cell.wire import Failed
from ..decision import DenialCode, Verdict
from ..errors import LimitExceeded
from ..telemetry.event import BrokerRecord, DenialEvent
from .exceeded import ExceededLimit

if TYPE_CHECKING:
    from ..sandbox import Sandbox
    from ..supervisor import Supervisor


def limit_behind(supervisor: Supervisor, sandbox: Sandbox, answer: Failed) -> LimitExceeded | None:
    """Return the limit's exception, its event recorded, or None when the exception is about something else."""
    limits = sandbox.limits
    usage = supervisor.usage_of(sandbox)
    if answer.errno == errno.EMFILE and limits.open_files is not None:
        return _from_guest(sandbox, answer, Capability.LIMIT_OPEN_FILES, limits.open_files + 1, limits.open_files)
    if answer.errno == errno.EFBIG and limits.file_size_bytes is not None:
        size = limits.file_size_bytes
        return _from_guest(sandbox, answer, Capability.LIMIT_FILE_SIZE, size + 1, size)
    starts = answer.errno == errno.EAGAIN or "start new thread" in answer.message
    if starts and limits.processes is not None:
        exceeded = ExceededLimit(limit="processes", used=limits.processes + 1, allowed=limits.processes)
        if usage is not None and usage.pids_refused > 0:
            event = supervisor.record_limit(
                sandbox, Capability.LIMIT_PROCESSES, f"{limits.processes}", f"the kernel refused {usage.pids_refused}"
            )
            return _with(exceeded.to_error(sandbox.name), event)
        if usage is None or usage.processes < limits.processes:
            # EAGAIN is also the answer of a socket that does not block: without a full table it is no limit.
            return None
        return _from_guest(sandbox, answer, Capability.LIMIT_PROCESSES, exceeded.used, exceeded.allowed)
    if answer.type_name == "MemoryError" and limits.memory_bytes is not None and usage is not None:
        used = max(usage.memory_bytes, usage.memory_peak_bytes)
        return _from_guest(sandbox, answer, Capability.LIMIT_MEMORY, used, limits.memory_bytes)
    return None


def _from_guest(sandbox: Sandbox, answer: Failed, capability: Capability, used: float, allowed: float) -> LimitExceeded:
    record = BrokerRecord(
        sequence=0,
        capability=capability,
        target=f"{allowed:.0f}",
        verdict=Verdict.DENY,
        code=DenialCode.LIMIT_EXCEEDED,
        reason=f"{answer.type_name}: {answer.message}"[:500],
        errno=answer.errno,
    )
    events = sandbox.telemetry.guest(record)
    sandbox.note_events(events)
    limit = capability.value.partition(".")[2]
    cause = f"the guest reports it, as {answer.type_name[:80]}"
    error = ExceededLimit(limit=limit, used=used, allowed=allowed, cause=cause).to_error(sandbox.name)
    return _with(error, events[-1] if events else None)


def _with(error: LimitExceeded, event: DenialEvent | None) -> LimitExceeded:
    error.denial_event = event
    return error
