"""Confine one thread of the host: broker, Landlock, seccomp, and the BPF programs where they decide."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from .. import hooks
from ..choices import Enforcement, Step
from ..decision import Mode
from ..kernel.seccomp import filter as seccomp_programs
from ..native import audit, landlock, process, seccomp
from ..policy.broker import Broker

if TYPE_CHECKING:
    from ..enforcement import EnforcementReport
    from ..kernel.binding import KernelBinding
    from ..kernel.prepared import Prepared
    from ..records import BrokerRecord


class ThreadConfinement:
    """What confines one sandbox thread. `confine` and `detach` run on that thread, the rest on the host's."""

    def __init__(self, kernel: KernelBinding, prepared: Prepared, report: Callable[[BrokerRecord], None]) -> None:
        self._kernel, self._prepared, self._on_record = kernel, prepared, report
        self._slots = kernel.open(prepared)
        self._descriptor: int | None = None
        self._tid = 0
        self.hooks: hooks.GuestHooks | None = None
        self.steps: list[Step] = []
        self.failed: list[tuple[Step, str]] = []

    def confine(self) -> None:
        """Confine the calling thread; what fails is in `failed`.

        The filter comes last: until the host's thread has attached its listener, this one makes no notified call.
        """
        self._tid = threading.get_native_id()
        try:
            self._confine()
        except Exception as error:
            self.failed.append(("confine", f"{type(error).__name__}: {error}"))

    def _confine(self) -> None:
        if self._slots is not None:
            descriptor, page = self._slots
            self._step("broker slots", lambda: audit.set_slot(descriptor, page=page))
        compiled, watched = self._prepared.compiled, self._prepared.shadow
        shadow = None if watched is None else hooks.Shadow(Broker(watched), watched)
        self.hooks = hooks.install(Broker(compiled), self._on_record, compiled, process_wide=False, shadow=shadow)
        with self.hooks.suspended():
            self._step("no_new_privs", process.set_no_new_privs)
            if self._prepared.ruleset is not None:
                ruleset = self._prepared.ruleset.fd
                self._step("landlock", lambda: landlock.restrict_self(ruleset))
            if self._kernel.listens:
                self._step("seccomp", self._install_filter)

    def _install_filter(self) -> None:
        # The descriptor is installed by this thread into the table that all threads share: no passing needed.
        compiled = self._prepared.compiled
        asks = not compiled.allow_random and compiled.mode_of("random") is Mode.ENFORCE
        self._descriptor = seccomp.install(seccomp_programs.thread_program(random=not asks), notify=True)

    def _step(self, name: Step, step: Callable[[], object]) -> None:
        try:
            step()
        except OSError as error:
            self.failed.append((name, str(error)))
        else:
            self.steps.append(name)

    def attach(self) -> None:
        """Have the filter's notifications answered, and the BPF programs decide."""
        if self._descriptor is not None:
            self._kernel.attach_thread(self._descriptor)
        if self._kernel.attach_task(self._tid, slot=0):
            self.steps.append("bpf-lsm")

    def report(self, enforcement: Enforcement) -> EnforcementReport:
        """Say who enforces what on this thread."""
        steps, failed = tuple(self.steps), tuple(self.failed)
        return self._kernel.report("thread", enforcement, steps, failed, cgroup_reason="shared process")

    def detach(self) -> None:
        """Take the hooks off the calling thread."""
        if self.hooks is not None:
            self.hooks.close()
