"""One sandbox at every enforcer: opened before its hand-out, attached, rebound, drained, reported, closed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..choices import Enforcement, Isolation, Step
from ..enforcement import EnforcementReport
from ..errors import EnforcementError
from ..records import BrokerRecord, CallStage, KernelRecord
from .enforcer import Attachment, Enforcer
from .prepared import Prepared
from .reconcile import CounterKey
from .report import Reporter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..limits.cgroup import CgroupLease


class KernelBinding:
    """What the kernel side holds for one sandbox: nothing until `open`, nothing after `close`."""

    def __init__(self, sandbox_id: str, enforcers: Sequence[Enforcer], reporter: Reporter) -> None:
        self.sandbox_id = sandbox_id
        self._enforcers, self._reporter = enforcers, reporter
        self._attachments: tuple[Attachment, ...] = ()
        self._prepared: Prepared | None = None

    def open(self, prepared: Prepared, *, host_network: bool = False) -> tuple[int, int] | None:
        """Make room at every enforcer; return (descriptor, page number) of the broker slots, where programs read them.

        `host_network`: its cell uses the host's network itself, under the programs of its control group.
        """
        self._prepared = prepared
        for enforcer in self._enforcers:
            made = enforcer.open(self.sandbox_id, prepared, host_network=host_network)
            if made is not None:
                self._attachments += (made,)
        return next((one.slots for one in self._attachments if one.slots is not None), None)

    @property
    def prepared(self) -> Prepared:
        """The tables in force. Raises EnforcementError before `open`."""
        if self._prepared is None:
            raise EnforcementError(f"sandbox {self.sandbox_id}: it is at no enforcer")
        return self._prepared

    @property
    def listens(self) -> bool:
        """True where a notification listener answers this sandbox's calls."""
        return any(one.listens for one in self._attachments)

    @property
    def led_as(self) -> tuple[int, int]:
        """By what its connections to the egress proxy are known: the listener's number, a control group; 0: neither."""
        found = [one.led_as for one in self._attachments]
        return max((number for number, _ in found), default=0), max((group for _, group in found), default=0)

    # -- attach ---------------------------------------------------------------------------------------------

    def bind_cell(self, pid: int, own: int | None = None, *, shared: bool = False) -> None:
        """Decide a warm cell's calls by the policy from here on. `own`: a descriptor of a workspace that is its alone.

        `shared`: a directory of the host's is mounted in that.

        Raises EnforcementError where the listener has ended, KeyError for a cell that was reaped.
        """
        for one in self._attachments:
            one.bind_cell(pid, own, shared=shared)

    def attach_thread(self, descriptor: int) -> None:
        """Decide the calls of a sandbox thread, whose filter's listener `descriptor` is. Takes the descriptor."""
        for one in self._attachments:
            one.attach_thread(descriptor)

    def attach_task(self, tid: int, slot: int | None = None) -> bool:
        """Put a cell, or a sandbox thread, under the BPF programs: after its own set-up, before any guest code.

        `slot` is the number of its broker slot, where it has one of its own. Returns whether programs decide there.
        """
        decided = [one.attach_task(tid, slot) for one in self._attachments]
        return any(decided)

    def attach_network(self, lease: CgroupLease | None) -> None:
        """Put the sandbox's control group under the network programs, before any guest code. First kernel: 5.18.

        Raises EnforcementError where it has no control group of version 2, or there are no programs.
        """
        if lease is None or lease.v2_path is None or self.prepared.bpf is None:
            raise EnforcementError(
                f"enforce policy {self.prepared.compiled.name!r}: net: the sandbox has no control group for its "
                "programs",
                missing="cgroup-bpf",
                hint="Supervisor(network='listener')",
            )
        for one in self._attachments:
            one.attach_group(Path(lease.v2_path))

    def release_network(self) -> None:
        """No process is left in the sandbox's control group: another sandbox may get it."""
        for one in self._attachments:
            one.release_group()

    # -- while it runs --------------------------------------------------------------------------------------

    def rebind(self, prepared: Prepared) -> None:
        """Swap the tables that the kernel side reads, each whole; records of earlier refusals reach the sink before."""
        self._prepared = prepared
        for one in self._attachments:
            one.rebind(prepared)

    def announce(self) -> int:
        """Say to the guest that its policy was reloaded; return how often it was, 0 where that cannot be said.

        Its broker then asks for the new table before it refuses anything by the old one.
        """
        return max((one.announce() for one in self._attachments), default=0)

    def quiet(self, pid: int) -> bool:
        """True where `drain` and `emit_uncounted` have nothing to do."""
        for one in self._attachments:  # noqa: SIM110 - a generator takes as long as a look, at the end of each request
            if not one.quiet(pid):
                return False
        return True

    def answer(self, number: int, *, allow: bool | None) -> None:
        """Answer a question of one of its calls; of one that has been given up only the record is made.

        None, about a file: the kernel decides.
        """
        for one in self._attachments:
            one.answer(number, allow=allow)

    def give(self, number: int, call: int, file: int, *, empty: bool) -> bool:
        """Answer with yes and a file: emptied, where `empty`, once the guest has it.

        Takes `file`. Tells whether the guest has it: not where its call was given up, or it may have no more of them.
        """
        asker = next((one for one in self._attachments if one.stage(call) == "waits"), None)
        if asker is None:  # it was given up, or the sandbox was closed while its answer was looked for
            os.close(file)
            self.answer(number, allow=True)
            return False
        return asker.give(number, file, empty=empty)

    def begin(self, number: int, call: int) -> bool:
        """Begin to carry out a call that waits: no signal interrupts it, until `done` or `answer`.

        False where it was given up, of which the record is made.
        """
        asker = next((one for one in self._attachments if one.stage(call) == "waits"), None)
        if asker is None:
            self.answer(number, allow=True)
            return False
        return asker.begin(number)

    def done(self, number: int, error: int) -> None:
        """Answer a call that was carried out with its error number, or 0."""
        for one in self._attachments:
            one.done(number, error)

    def stage(self, call: int) -> CallStage:
        """Tell where a call of it is that a question was about. Never waits."""
        stages = (one.stage(call) for one in self._attachments)
        return next((stage for stage in stages if stage != "gone"), "gone")

    def drain(self) -> None:
        """Return once every kernel record up to now has reached the sink."""
        for one in self._attachments:
            one.drain()

    def note_recorded(self, record: KernelRecord, *, named: bool) -> None:
        """An enforcer recorded a refusal that another one may have counted; not `named`: it is no event by itself."""
        for one in self._attachments:
            one.note_recorded(record, named=named)

    def emit_uncounted(self, pid: int) -> None:
        """Send one record per counter for refusals that the kernel counted and did not record. After `drain`."""
        for one in self._attachments:
            one.emit_uncounted(pid)

    def spent_s(self) -> float:
        """Return the processor time that deciding and recording for it took of this process; 0 once it is closed."""
        return sum(one.spent_s() for one in self._attachments)

    def take_refusals(self) -> list[tuple[CounterKey, int]]:
        """Return, once, how often an ended guest's broker had refused: the guest's own word."""
        return [found for one in self._attachments for found in one.take_refusals()]

    def landlock_layers(self, pid: int) -> int | None:
        """Return how many Landlock rulesets confine a task; None where the kernel does not say (6.15, CAP_BPF)."""
        return next((found for one in self._attachments if (found := one.landlock_layers(pid)) is not None), None)

    def evaluate(self, record: BrokerRecord) -> KernelRecord | None:
        """Ask the kernel's own tables about an operation that the broker refused; None: no table holds an answer."""
        for one in self._attachments:
            if (found := one.evaluate(record)) is not None:
                return found
        return None

    # -- what is enforced -----------------------------------------------------------------------------------

    def report(
        self,
        isolation: Isolation,
        enforcement: Enforcement,
        steps: tuple[Step, ...],
        failed: tuple[tuple[Step, str], ...],
        *,
        has_cgroup: bool = False,
        cgroup_reason: str = "",
    ) -> EnforcementReport:
        """Say who enforces what, from what was proven and what the cell's steps returned."""
        return self._reporter.report(
            self.prepared, isolation, enforcement, steps, failed, has_cgroup=has_cgroup, cgroup_reason=cgroup_reason
        )

    def close(self) -> None:
        """The sandbox is gone: forget it, after its last records."""
        attachments, self._attachments = self._attachments, ()
        for one in attachments:
            one.close()
