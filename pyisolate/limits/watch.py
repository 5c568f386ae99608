"""Watching live sandboxes: sampling, what a request leaves behind, and which limit the kernel killed a cell by."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

from ..capability import Capability
from ..errors import LimitExceeded, MemoryExceeded
from .exceeded import ExceededLimit
from .usage import descendants
from .watchdog import Watchdog

if TYPE_CHECKING:
    from ..sandbox import Sandbox
    from ..supervisor import Supervisor


class SandboxWatch:
    """One supervisor's watch over its sandboxes in process isolation."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._watchdog = Watchdog()

    def start(self) -> None:
        """Start watching."""
        self._watchdog.start()

    def stop(self) -> None:
        """Forget all and end the thread."""
        self._watchdog.stop()

    def gauges(self, sandbox: Sandbox) -> tuple[float, int]:
        """Return (processor seconds, memory bytes) now: two readings, where a full one takes six. Zeros when gone."""
        lease = sandbox._lease
        try:
            if lease is not None:
                return lease.cpu_s(), lease.memory_bytes()
            usage = sandbox.tree.read()
        except OSError:
            return 0.0, 0
        return usage.cpu_s, usage.memory_bytes

    def unwatch(self, sandbox: Sandbox) -> None:
        """A sandbox was closed."""
        self._watchdog.unwatch(sandbox.id)

    def watch(self, sandbox: Sandbox, deadline_ns: int | None = None) -> None:
        """Sample a sandbox from hand-out to close: a thread it leaves running between requests counts too."""
        self._watchdog.watch(
            sandbox.id,
            deadline_ns=deadline_ns,
            limits=sandbox.limits,
            read_usage=lambda: self._supervisor.usage_of(sandbox),
            on_exceeded=lambda _key, exceeded: self._exceeded(sandbox, exceeded),
            enforced=sandbox._lease is not None,
        )

    def request_ended(self, sandbox: Sandbox, deadline: float | None) -> None:
        """Processes that a request leaves behind may stay until that request's own deadline (CLOCK_MONOTONIC)."""
        if sandbox._compiled.allow_fork and deadline is not None and not sandbox.closed:
            self._watchdog.extend(sandbox.id, int(deadline * 1e9))

    def _exceeded(self, sandbox: Sandbox, exceeded: ExceededLimit) -> None:
        if exceeded.limit == "wall":
            # The request that runs watches its own deadline; this one is for what an earlier one left behind.
            if sandbox._state != "running":
                self._end_orphans(sandbox)
            self.watch(sandbox)
            return
        capability = Capability(f"limit.{exceeded.limit}")
        event = self._supervisor.record_limit(sandbox, capability, f"{exceeded.allowed:g}", f"used {exceeded.used:g}")
        error = exceeded.to_error(sandbox.name)
        error.denial_event = event
        sandbox._end_with(error)

    def _end_orphans(self, sandbox: Sandbox) -> None:
        lease = sandbox._lease
        pids = lease.pids() if lease is not None else descendants(sandbox.pid)
        orphans = [pid for pid in pids if pid != sandbox.pid]
        for pid in orphans:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if orphans:
            self._supervisor.record_limit(
                sandbox, Capability.LIMIT_WALL, f"{len(orphans)} processes", "left behind by a request and ended"
            )

    def limit_that_killed(self, sandbox: Sandbox) -> LimitExceeded | None:
        """Return the limit by which the kernel itself killed a cell, or None."""
        lease, limits = sandbox._lease, sandbox.limits
        if lease is not None and lease.oom_kills() > 0:
            used = lease.usage().memory_peak_bytes
            event = self._supervisor.record_limit(
                sandbox, Capability.LIMIT_MEMORY, f"{limits.memory_bytes} bytes", "the kernel killed it: out of memory"
            )
            return MemoryExceeded(
                f"memory of {sandbox.name!r}: its processes reached {limits.memory_bytes} bytes and were killed",
                limit="memory",
                used=used,
                allowed=limits.memory_bytes,
                denial_event=event,
                hint="raise limits.memory, or make the guest hold less",
            )
        status = sandbox._channel.exit_status
        if status is not None and os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU,):
            return ExceededLimit(limit="cpu", used=limits.cpu_s or 0, allowed=limits.cpu_s or 0).to_error(sandbox.name)
        return None
