"""What BPF does for one supervisor, by what this kernel lets it do.

With BPF-LSM the programs decide files, exec, memory and the floor for each cell, and Landlock and the root view stay
off, so that a reload may loosen as well as tighten. With CAP_BPF alone the tables answer "what would you say" for the
broker's denials, Landlock's own count of refusals is pulled after each request, and, asked for, the sys_exit
observer tells of every refused call. Without CAP_BPF there is none of this, and the report says so.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from ..capability import Capability
from ..decision import DenialCode, Verdict
from ..native._result import shortage
from ..policy.compiled import CompiledPolicy
from ..telemetry.event import BrokerRecord, Evaluation, KernelRecord
from .enforcer import Availability, RecordSink, Status

if TYPE_CHECKING:
    from pathlib import Path

    from ..telemetry.sandbox import Probe
    from .bpf_cgroup import CgroupBpfEnforcer
    from .bpf_landlock import LandlockDenialCounter
    from .bpf_lsm import BpfLsmEnforcer
    from .bpf_observer import SyscallObserver
    from .bpf_shared import BpfShared
    from .bpf_state import BpfPolicy

#: What the notification listener decides and records itself: the observer sees these refusals a second time.
_LISTENERS = ("net.", "process.", "ipc.", "kernel.", "memory.")

_answers: dict[str, Availability] = {}
_answers_lock = threading.Lock()


def _probed(name: str) -> Availability:
    """Probe once in this process: a kernel does not change its mind, and loading all programs takes 0.2 s."""
    with _answers_lock:
        if name not in _answers:
            from .bpf_lsm import BpfLsmEnforcer
            from .bpf_observer import SyscallObserver

            if name == "cgroup-bpf":
                from .bpf_cgroup import CgroupBpfEnforcer

                found = CgroupBpfEnforcer("/").probe()
            else:
                found = (BpfLsmEnforcer() if name == "bpf-lsm" else SyscallObserver()).probe()
            if found.status is Status.UNKNOWN or shortage(found.reason) is not None:
                return found
            _answers[name] = found
        return _answers[name]


def may_use_bpf() -> bool:
    """True with CAP_BPF (or CAP_SYS_ADMIN) in the effective set: without it every load is refused (bpf(2))."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("CapEff:"):
                held = int(line.split()[1], 16)
                return bool(held >> 39 & 1 or held >> 21 & 1)
    return False


class BpfPlan:
    """The BPF side of a `KernelPlan`. Everything is optional; `availability` says what is there and why not."""

    def __init__(self, sink: RecordSink, *, observe: bool, events_per_s: int = 1000) -> None:
        self._sink, self._observe, self._events_per_s = sink, observe, events_per_s
        self.availability: dict[str, Availability] = {}
        self.shared: BpfShared | None = None
        self.lsm: BpfLsmEnforcer | None = None
        self.observer: SyscallObserver | None = None
        self.counter: LandlockDenialCounter | None = None
        self.network: CgroupBpfEnforcer | None = None
        self._counted: dict[str, int] = {}
        self._told: dict[str, int] = {}

    # -- life -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Load what this kernel takes. Never raises: what cannot be had is told in `availability`."""
        if not may_use_bpf():
            self._unavailable("bpf", "CAP_BPF is missing", "run the supervisor as root or with CAP_BPF and CAP_PERFMON")
            return
        from .bpf_landlock import LandlockDenialCounter
        from .bpf_loader import BpfUnavailable
        from .bpf_lsm import BpfLsmEnforcer
        from .bpf_observer import SyscallObserver
        from .bpf_shared import BpfShared

        shared = BpfShared(events_per_s=self._events_per_s)
        try:
            shared.start(self._on_record)
        except BpfUnavailable as error:
            self._unavailable("bpf", error.reason, error.hint or "")
            return
        self.shared = shared
        self.availability["bpf"] = Availability(
            enforcer="bpf", status=Status.AVAILABLE, proof="tables are filled and answer when asked"
        )
        found = self.availability["bpf-lsm"] = _probed("bpf-lsm")
        if found.usable:
            self.lsm = BpfLsmEnforcer(shared)
            self.lsm.start(self._on_record)
            return
        try:
            self.counter = LandlockDenialCounter(shared.loader)
            self.counter.start()
            self.availability["landlock-denials"] = Availability(
                enforcer="landlock-denials", status=Status.AVAILABLE, proof="a refused child was counted exactly"
            )
        except (BpfUnavailable, OSError) as error:
            self.counter = None
            self._unavailable("landlock-denials", str(error), "")
        if self._observe:
            found = self.availability["bpf-observer"] = _probed("bpf-observer")
            if found.usable:
                self.observer = SyscallObserver(shared)
                self.observer.start(self._on_record)

    def start_network(self, domain: Path) -> None:
        """Let programs decide connect and send for control groups below `domain`, where this kernel can."""
        if self.shared is None or self.decides:
            return
        from .bpf_cgroup import CgroupBpfEnforcer
        from .bpf_loader import BpfUnavailable

        found = self.availability["cgroup-bpf"] = _probed("cgroup-bpf")
        if not found.usable:
            return
        # not strict: the listener binds and sends on the guests' sockets, and it is in no sandbox's group
        network = CgroupBpfEnforcer(domain, self.shared, strict=False)
        try:
            network.start(self._on_record)
        except (BpfUnavailable, OSError) as error:
            self._unavailable("cgroup-bpf", str(error), "")
            return
        self.network = network

    def _unavailable(self, name: str, reason: str, remedy: str) -> None:
        self.availability[name] = Availability(enforcer=name, status=Status.UNAVAILABLE, reason=reason, remedy=remedy)

    def close(self) -> None:
        """Detach everything; nothing is left in the kernel."""
        if self.counter is not None:
            self.counter.close()
        for enforcer in (self.observer, self.lsm, self.network):
            if enforcer is not None:
                enforcer.close()
        if self.shared is not None:
            self.shared.close()
        self.shared = self.lsm = self.observer = self.counter = self.network = None

    def abandon(self) -> None:
        """In a forked child of the host: close the copies of descriptors, detach and change nothing."""
        if self.network is not None:
            self.network.abandon()
        if self.shared is not None:
            self.shared.abandon()
        self.shared = self.lsm = self.observer = self.counter = self.network = None

    @property
    def decides(self) -> bool:
        """True where BPF-LSM decides."""
        return self.lsm is not None

    # -- policies and sandboxes -----------------------------------------------------------------------------

    def prepare(self, compiled: CompiledPolicy) -> BpfPolicy | None:
        """Fill a policy's tables, where BPF is there at all."""
        return None if self.shared is None else self.shared.prepare(compiled)

    def open(
        self, sandbox_id: str, policy: BpfPolicy, shadow: BpfPolicy | None = None, *, native: bool = False
    ) -> tuple[int, int] | None:
        """Make a sandbox's entry before its hand-out; return (descriptor, page) of its broker slots, if read."""
        if self.shared is None or (self.lsm is None and self.observer is None and not native):
            return None
        self.shared.entry(sandbox_id, policy, shadow)
        return self.shared.slot_page(sandbox_id)

    def attach(
        self,
        pid: int,
        sandbox_id: str,
        policy: BpfPolicy,
        shadow: BpfPolicy | None = None,
        *,
        slot: int | None = None,
    ) -> None:
        """Put a handed-out cell, or a thread, under the programs: before any guest code runs."""
        if self.lsm is not None:
            self.lsm.attach_task(pid, sandbox_id, policy, shadow, slot=slot)
        elif self.observer is not None:
            self.observer.attach_task(pid, sandbox_id, policy, slot=slot)

    def rebind(self, sandbox_id: str, policy: BpfPolicy, shadow: BpfPolicy | None = None) -> None:
        """Swap a sandbox's tables in one store. What was refused before is told before."""
        if self.shared is not None and self.shared.entries.get(sandbox_id) is not None:
            self.shared.records.drain()
            self.shared.update(sandbox_id, policy, shadow)

    def detach(self, sandbox_id: str) -> None:
        """A sandbox is gone."""
        self._counted.pop(sandbox_id, None)
        self._told.pop(sandbox_id, None)
        if self.shared is not None and self.shared.entries.get(sandbox_id) is not None:
            self.shared.records.drain()
            self._tell_unnamed(self.shared, sandbox_id, 0)
            self.shared.detach(sandbox_id)

    # -- telemetry ------------------------------------------------------------------------------------------

    def _on_record(self, record: KernelRecord) -> None:
        if self.observer is not None and record.enforcer == "bpf-observer":
            if record.capability.value.startswith(_LISTENERS):
                return  # the listener's own record says more
            self._told[record.sandbox_id] = self._told.get(record.sandbox_id, 0) + record.count
        self._sink(record)

    def drain(self) -> None:
        """Hand on every record up to now."""
        if self.shared is not None:
            self.shared.records.drain()

    def _tell_unnamed(self, shared: BpfShared, sandbox_id: str, pid: int) -> None:
        shared.records.tell_unnamed(sandbox_id, pid, "bpf-lsm" if self.decides else "cgroup-bpf")

    def tell_unnamed(self, sandbox_id: str, pid: int) -> None:
        """Hand on, as counts, what the programs and Landlock counted beyond what anybody could tell. After `drain`."""
        if self.shared is None:
            return
        self._tell_unnamed(self.shared, sandbox_id, pid)
        if self.counter is None:
            return
        found = self.counter.read(pid)
        if found is None:
            return
        missing = found.denials - self._counted.get(sandbox_id, 0)
        self._counted[sandbox_id] = found.denials
        missing -= self._told.pop(sandbox_id, 0)
        if missing > 0:
            self._sink(
                KernelRecord(
                    sandbox_id=sandbox_id,
                    enforcer="landlock",
                    hook="num_denials",
                    capability=Capability.FS_ACCESS,
                    target="",
                    verdict=Verdict.DENY,
                    errno=13,
                    evaluation=Evaluation.COUNTED,
                    code=DenialCode.NOT_GRANTED,
                    reason="Landlock counted it without naming it: Supervisor(telemetry='full') would",
                    pid=pid,
                    monotonic_ns=time.monotonic_ns(),
                    count=missing,
                )
            )

    def probe_of(self, policy_of: dict[str, BpfPolicy], sandbox_id: str) -> Probe | None:
        """Return what asks the tables about an operation that the broker refused."""
        shared = self.shared
        if shared is None:
            return None
        program = shared._ask
        assert program is not None
        from .bpf_ask import ask

        def probe(record: BrokerRecord) -> KernelRecord | None:
            policy = policy_of.get(sandbox_id)
            if policy is None:
                return None
            verdict = ask(program, policy.index, record.capability, record.target)
            if verdict is Verdict.UNAVAILABLE:
                return None
            return KernelRecord(
                sandbox_id=sandbox_id,
                enforcer="bpf",
                hook="ask",
                capability=record.capability,
                target=record.target,
                verdict=verdict,
                evaluation=Evaluation.PROBED,
                reason="the kernel's tables, asked without acting",
                monotonic_ns=time.monotonic_ns(),
            )

        return probe


def page_descriptor(page: tuple[int, int] | None) -> dict[str, int]:
    """Return the descriptor that a cell maps its slots from, by name."""
    return {} if page is None else {"slots": page[0]}
