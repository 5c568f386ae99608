"""The limits of one live sandbox in a cell: readings, sampling, what a request leaves running, what killed the cell."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Protocol

import msgspec

from ..capability import Capability
from ..errors import LimitExceeded, MemoryExceeded, SandboxClosed, SandboxError
from ..records import Reporter
from .diagnose import Failure, Findings, diagnose_limit
from .exceeded import ExceededLimit, filled
from .rlimit import host_cpu_s
from .usage import Filling, TreeReader, Usage, descendants, descriptor_slots, soft_limits
from .watchdog import Watchdog

if TYPE_CHECKING:
    from ..policy.compiled import Limits
    from ..records import BrokerRecord
    from ..telemetry.event import DenialEvent
    from .cgroup import CgroupLease

_log = logging.getLogger("pyisolate.limits.monitor")


class Limited(Protocol):
    """The sandbox, as far as its limits need it."""

    id: str

    @property
    def name(self) -> str:
        """For error text."""
        ...

    @property
    def pid(self) -> int:
        """The cell's first process."""
        ...

    @property
    def init_pid(self) -> int:
        """The cell's init, the first process's parent: all of the cell is below it."""
        ...

    @property
    def limits(self) -> Limits:
        """The limits in force; a reload changes them."""
        ...

    @property
    def allow_fork(self) -> bool:
        """True where the guest may start processes."""
        ...

    @property
    def closed(self) -> bool:
        """True once nothing can run there any more."""
        ...

    @property
    def requests(self) -> int:
        """How many requests have begun."""
        ...

    @property
    def running(self) -> bool:
        """True while a request runs."""
        ...

    @property
    def programs(self) -> Collection[object]:
        """Programs of `popen` that run: each has a deadline of its own."""
        ...

    def filling(self) -> Filling | None:
        """How full its workspace is, None where it has none."""
        ...

    def host_used_s(self) -> float:
        """Return the processor time that the host used on its behalf."""
        ...

    def record_limit(
        self, capability: Capability, target: str, reason: str, reported: DenialEvent | None = None
    ) -> DenialEvent:
        """Record that a limit was reached, as the host saw it. The guest's word may have made an event of it."""
        ...

    def recorded_limit(self, capability: Capability) -> DenialEvent | None:
        """Return the newest event of a limit that this request met and the kernel's side recorded."""
        ...

    def record_reported_limit(self, record: BrokerRecord) -> DenialEvent | None:
        """Record that a limit was reached, as the guest reports it."""
        ...

    def end_with(self, error: SandboxError) -> None:
        """Kill the sandbox for that reason."""
        ...


#: A request shorter than this has hardly started enough processes or threads to be refused one (about 50 us each), and
#: reading the kernel's count (14 us) would be a tenth of its time. The watchdog's next look sees the count anyway.
_STARTS_TAKE_S = 0.0005
#: The guest, the watchdog and the reaper notice the same overrun within this time (nanoseconds).
_SAME_OVERRUN_NS = 2_000_000_000
#: The hint where most of the processor time was the host's.
_BUSY_HOST = "look for a loop of refused calls or of messages, or raise limits.cpu in the policy"


class SandboxLimits:
    """The limits of one sandbox in process isolation. `lease` is its control group, None where there is none."""

    def __init__(self, subject: Limited, watchdog: Watchdog, lease: CgroupLease | None) -> None:
        self._subject, self._watchdog = subject, watchdog
        self.lease = lease
        self._refused_lock = threading.Lock()
        self._refused = 0
        self._refused_event: DenialEvent | None = None
        #: from the search for an overrun's event until what was made of it can be found
        self._overrun_lock = threading.RLock()
        #: what was recorded here of limits that were passed: the number of the request, and the event
        self._overruns: dict[Capability, tuple[int, DenialEvent]] = {}
        self._full_lock = threading.Lock()
        #: seconds of requests since the last look at the workspace, and those that filling it takes at least
        self._unlooked_s = self._fills_s = 0.0
        self._full_event: DenialEvent | None = None

    @functools.cached_property
    def _tree(self) -> TreeReader:
        """Readings of the cell's process tree, where no control group sums them."""
        subject = self._subject
        return TreeReader(subject.pid, memory_limit_bytes=subject.limits.memory_bytes, init=subject.init_pid)

    def apply(self, limits: Limits) -> None:
        """Set the control group's limits, where there is one."""
        if self.lease is not None:
            self.lease.apply(limits)

    def let_notice(self) -> None:
        """The guest is interrupted, and killed where it does not notice soon: it gives way to none until then."""
        if (lease := self.lease) is not None:
            lease.turn.begin_anew()

    def hurry(self) -> None:
        """The sandbox is ended: it gives way no more, so that it is gone soon."""
        if (lease := self.lease) is not None:
            lease.turn.end()

    def kill(self) -> None:
        """End every process of the control group."""
        if self.lease is None:
            return
        try:
            self.lease.kill()
        except OSError as trouble:
            # The init of the cell's pid namespace was killed: its death alone ends every process in it.
            _log.warning("ending the control group of %s: %s", self._subject.name, trouble)

    def set_frozen(self, frozen: bool) -> None:
        """Stop the sandbox between two requests, if its limits say so, or let it go on. One that goes on is ended."""
        lease, subject = self.lease, self._subject
        if lease is None or (frozen and (subject.limits.between_requests != "freeze" or subject.closed)):
            return
        try:
            lease.set_frozen(frozen)
        except OSError as trouble:
            word = "stop between requests" if frozen else "go on after a rest"
            subject.end_with(SandboxClosed(f"{subject.name!r} was to {word}: {trouble.strerror}"))

    # -- readings -------------------------------------------------------------------------------------------

    def usage(self) -> Usage | None:
        """Return what the sandbox's processes use now, None when they are gone. Its workspace is memory of its own.

        A control group is charged with what the guest writes there; a process tree shows none of it.
        """
        lease = self.lease
        try:
            if lease is not None:
                return lease.usage()
            usage, filling = self._tree.read(), self._subject.filling()
        except (OSError, ProcessLookupError):
            return None
        return usage if filling is None else usage.plus(filling.used)

    def _look(self) -> Usage | None:
        """Take a reading for the watchdog, and see whether the workspace is full. What it costs the host counts."""
        self._record_full_workspace()
        usage = self.usage()
        return (
            None if usage is None else msgspec.structs.replace(usage, cpu_s=usage.cpu_s + self._subject.host_used_s())
        )

    def gauges(self) -> tuple[float, int]:
        """Return (processor seconds, memory bytes) now: two readings, where a full one takes six. Zeros when gone."""
        lease = self.lease
        if lease is None:
            usage = self.usage()
            return (0.0, 0) if usage is None else (usage.cpu_s, usage.memory_bytes)
        try:
            return lease.cpu_s(), lease.memory_bytes()
        except OSError:
            return 0.0, 0

    # -- sampling -------------------------------------------------------------------------------------------

    def watch(self, deadline_ns: int | None = None) -> None:
        """Sample the sandbox from hand-out to close: a thread it leaves running between requests counts too."""
        self._watchdog.watch(
            self._subject.id,
            deadline_ns=deadline_ns,
            limits=self._subject.limits,
            read_usage=self._look,
            on_exceeded=lambda _key, exceeded: self._exceeded(exceeded),
            enforced=self.lease is not None,
        )

    def unwatch(self) -> None:
        """The sandbox was closed."""
        self._watchdog.unwatch(self._subject.id)

    def request_ended(self, deadline: float | None, *, took_s: float) -> None:
        """Processes that a request leaves running may stay until that request's own deadline (CLOCK_MONOTONIC)."""
        if took_s >= _STARTS_TAKE_S:
            self._record_refused_tasks()
        self._unlooked_s += took_s
        if self._unlooked_s >= self._fills_s:
            self._record_full_workspace()
        if deadline is not None and self._subject.allow_fork and not self._subject.closed:
            self._watchdog.extend(self._subject.id, int(deadline * 1e9))

    def _exceeded(self, exceeded: ExceededLimit) -> None:
        subject = self._subject
        if exceeded.limit == "wall":
            # The request that runs watches its own deadline; this one is for what an earlier one left running.
            if not subject.running and not subject.programs:
                self._end_orphans()
            self.watch()
            return
        capability = Capability(f"limit.{exceeded.limit}")
        event = self._record_refused_tasks() if capability is Capability.LIMIT_PROCESSES else None
        if exceeded.limit == "cpu":
            hosts = subject.host_used_s()
            hint = _BUSY_HOST if hosts > exceeded.used / 2 else ""
            exceeded = msgspec.structs.replace(exceeded, cause=f"{hosts:.3g} s of it by the host", hint=hint)
        if event is None:
            reason = f"used {_figure(exceeded.used)}" + (f"; {exceeded.cause}" if exceeded.cause else "")
            event = self._record_once(capability, _figure(exceeded.allowed), reason)
        error = exceeded.to_error(subject.name)
        error.denial_event = event
        subject.end_with(error)

    def _record_once(self, capability: Capability, target: str, reason: str) -> DenialEvent:
        """Record that a limit was passed, unless this overrun has its event: several notice it, any of them first.

        An event that only the guest's word has made becomes the host's.
        """
        with self._overrun_lock:
            event = self._noticed(capability)
            if event is None or event.reported_by is Reporter.GUEST:
                event = self._subject.record_limit(capability, target, reason, event)
                self._overruns[capability] = (self._subject.requests, event)
            return event

    def _noticed(self, capability: Capability) -> DenialEvent | None:
        """Return the event of a limit that the request passed just now, as it was recorded here.

        Never one that the guest has sent: it may say what it likes, and would hide the host's own.
        """
        request, event = self._overruns.get(capability, (0, None))
        if event is None or request != self._subject.requests:
            return None
        return event if time.monotonic_ns() - event.last_seen < _SAME_OVERRUN_NS else None

    def _record_refused_tasks(self) -> DenialEvent | None:
        """Record, as one event, what processes and threads the kernel refused since the last look, caught or not.

        Return the newest such event, None where none was ever refused. Without a control group nothing counts them.
        """
        with self._refused_lock:
            refused = 0
            with contextlib.suppress(OSError):
                refused = self.lease.pids_refused() if self.lease is not None else 0
            if refused > self._refused and (allowed := self._subject.limits.processes) is not None:
                reason = f"the kernel refused {refused - self._refused} more"
                self._refused = refused
                self._refused_event = self._subject.record_limit(Capability.LIMIT_PROCESSES, f"{allowed}", reason)
            return self._refused_event

    def _record_full_workspace(self) -> DenialEvent | None:
        """Record, once until there is room again, that a workspace is full; return the event while it is."""
        with self._full_lock:
            filling = self._subject.filling()
            self._unlooked_s, self._fills_s = 0.0, filling.fills_s if filling is not None else math.inf
            if filling is None or not filling.exhausted:
                self._full_event = None
            elif self._full_event is None:
                met = filled(self._subject.limits, filling)
                target = f"{met.allowed:.0f} {'files' if met.limit == 'files' else 'bytes'}"
                reason = f"the workspace is full: {filling.used} bytes are used"
                self._full_event = self._subject.record_limit(Capability(f"limit.{met.limit}"), target, reason)
            return self._full_event

    def _end_orphans(self) -> None:
        lease, init = self.lease, self._subject.init_pid
        pids = lease.pids() if lease is not None else descendants(init)
        orphans = [pid for pid in pids if pid not in (self._subject.pid, init)]
        for pid in orphans:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if orphans:
            self._subject.record_limit(
                Capability.LIMIT_WALL, f"{len(orphans)} processes", "left running by a request and ended"
            )

    # -- what ended it --------------------------------------------------------------------------------------

    def diagnose(self, failure: Failure) -> LimitExceeded | None:
        """Return the limit that an uncaught OSError or MemoryError of the guest stands for, or None."""
        found = Findings(
            usage=self.usage(),
            descriptors=descriptor_slots(self._subject.pid),
            refused=self._record_refused_tasks(),
            filling=self._subject.filling(),
            full=self._record_full_workspace(),
            no_room=self._subject.recorded_limit(Capability.LIMIT_DISK)
            or self._subject.recorded_limit(Capability.LIMIT_WORKSPACE),
            opened=self._subject.recorded_limit(Capability.LIMIT_OPEN_FILES),
            grown=self._subject.recorded_limit(Capability.LIMIT_FILE_SIZE),
            soft=soft_limits(self._subject.pid),
            noticed=self._noticed,
        )
        with self._overrun_lock:
            met = diagnose_limit(self._subject, failure, found)
            event = None if met is None else met.denial_event
            if met is not None and event is not None and event.capability.value == f"limit.{met.limit}":
                self._overruns[event.capability] = (self._subject.requests, event)
            return met

    def what_killed(self, exit_status: int | None) -> LimitExceeded | None:
        """Return the limit by which the kernel itself killed a cell, or None. `exit_status` as of waitpid(2)."""
        lease, subject = self.lease, self._subject
        if lease is not None and lease.oom_kills() > 0:
            allowed = subject.limits.memory_bytes
            used = lease.usage().memory_peak_bytes
            event = self._record_once(Capability.LIMIT_MEMORY, f"{allowed}", "the kernel killed it: out of memory")
            return MemoryExceeded(
                f"memory of {subject.name!r}: its processes reached {allowed} bytes and were killed",
                limit="memory",
                used=used,
                allowed=allowed,
                denial_event=event,
                hint="raise limits.memory, or make the guest hold less",
            )
        if exit_status is not None and os.WIFSIGNALED(exit_status) and os.WTERMSIG(exit_status) == signal.SIGXCPU:
            return self._cpu_killed()
        return None

    def _cpu_killed(self) -> LimitExceeded | None:
        """Return the limit of one process's time that the kernel enforced: the policy's, or a lower one of the host's.

        None where the guest was not there yet, and sent the signal itself.
        """
        subject, own, hosts = self._subject, self._subject.limits.cpu_s, host_cpu_s()
        lower = hosts is not None and (own is None or hosts < own)
        allowed = float(hosts or 0) if lower else own or 0.0
        used = self.gauges()[0] if self.lease is not None else allowed
        if used < allowed - 1:
            return None
        cause = "by the host's own limit (`ulimit -H -t`)" if lower else "the kernel ended it"
        event = self._record_once(Capability.LIMIT_CPU, f"{allowed:g}", f"used {used:g}; {cause}")
        hint = "raise the limit of the process that spawns (`ulimit -t`, LimitCPU= of systemd)" if lower else ""
        passed = ExceededLimit(limit="cpu", used=used, allowed=allowed, cause=cause, hint=hint)
        error = passed.to_error(subject.name)
        error.denial_event = event
        return error


def _figure(value: float) -> str:
    """Return a figure for an event: a whole one, as of bytes, with all of its digits."""
    return f"{value:.0f}" if value == int(value) else f"{value:.10g}"
