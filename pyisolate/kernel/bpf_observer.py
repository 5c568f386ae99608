"""The sys_exit observer: every refused system call of a sandbox's threads, with its path or address. Opt-in.

It decides nothing: it tells what Landlock, seccomp or the file system refused, joined with the broker's slot. It costs
every system call on the machine some 75 ns while it is attached. First kernel: 5.11 (task storage in tracepoints).
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from ..capability import Capability
from ..native import libbpf
from ..policy.compiled import CompiledPolicy
from .bpf_loader import BpfLoader, BpfUnavailable
from .bpf_shared import BpfEnforcer, BpfShared
from .bpf_state import BpfPolicy
from .enforcer import Availability, Status

ENFORCER = "bpf-observer"


class SyscallObserver(BpfEnforcer):
    """Reports refused system calls of attached tasks and their children."""

    name = ENFORCER

    def __init__(self, shared: BpfShared | None = None, *, events_per_s: int = 1000) -> None:
        super().__init__(shared, events_per_s=events_per_s)
        self._links: list[libbpf.Link] = []

    def _attach(self) -> None:
        programs = self.loader.load("observe").programs
        self._links = [programs[name].attach() for name in ("task_newtask", "sys_exit")]

    def close(self) -> None:
        """Stop observing; with the last enforcer, nothing is left in the kernel."""
        links, self._links = self._links, []
        for link in links:
            link.close()
        super().close()

    def attach_task(self, tid: int, sandbox_id: str, policy: BpfPolicy, *, slot: int | None = None) -> str:
        """Observe a thread, or a process by its pid, and all that it starts."""
        entry = self.shared.entry(sandbox_id, policy)
        return self.shared.entries.attach_task(entry, tid, slot=slot)

    def capabilities(self) -> frozenset[Capability]:
        """Return nothing: it decides nothing."""
        return frozenset()

    def probe(self) -> Availability:
        """See a child's refused call."""
        probe = SyscallObserver(BpfShared(BpfLoader(sandboxes=16, ring_bytes=1 << 16)))
        seen: list[Any] = []
        try:
            probe.start(seen.append)
        except BpfUnavailable as error:
            return Availability(
                enforcer=ENFORCER, status=Status.UNAVAILABLE, reason=error.reason, remedy=error.hint or ""
            )
        child = subprocess.Popen([sys.executable, "-I", "-S", "-c", _PROBE], stdin=subprocess.PIPE)
        try:
            policy = probe.prepare(CompiledPolicy(name="probe", version="probe"))
            probe.attach_task(child.pid, "probe", policy)
            policy.close()
            child.communicate(b"\n", timeout=60)
            probe.shared.records.drain()
        finally:
            child.kill()
            child.wait()
            probe.close()
        refused = [record for record in seen if record.syscall == "kill"]
        if not refused:
            return Availability(
                enforcer=ENFORCER, status=Status.UNAVAILABLE, reason="attached, but saw no refused call"
            )
        return Availability(enforcer=ENFORCER, status=Status.AVAILABLE, proof="saw a child's kill(1, 0) refused")


#: As an ordinary user, so that the signal is refused.
_PROBE = """
import os, sys
sys.stdin.readline()
if os.getuid() == 0: os.setuid(65534)
try: os.kill(1, 0)
except PermissionError: pass
"""
