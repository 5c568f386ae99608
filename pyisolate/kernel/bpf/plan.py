"""What BPF does for one supervisor, by what this kernel lets it do.

With BPF-LSM the programs decide files, exec, memory and the floor for each cell, and Landlock and the root view stay
off, so that a reload may loosen as well as tighten. With CAP_BPF alone they decide the connections of cells on the
host's network, and Landlock's own count of refusals is pulled after each request. Without CAP_BPF there is none of
this, and the report says so. Only tables that decide are asked what they would say of the broker's denials.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ...capability import Capability
from ...choices import EnforcerName, Origin
from ...decision import DenialCode, Verdict
from ...enforcement import Availability, Status
from ...errors import EnforcementError
from ...native.result import is_shortage, without_hint
from ...policy.compiled import CompiledPolicy
from ...records import BrokerRecord, Evaluation, KernelRecord
from ..enforcer import Attachment, Enforcer, RecordSink
from ..prepared import Draft, Prepared
from . import cgroup_eligibility
from .cgroup import CgroupBpfEnforcer
from .landlock_counter import LandlockDenialCounter
from .loader import BpfUnavailable
from .lsm import BpfLsmEnforcer
from .maps import BpfPolicy
from .query import ask
from .runtime import BpfSettings, BpfShared

if TYPE_CHECKING:
    from pathlib import Path

_answers: dict[str, Availability] = {}
_answers_lock = threading.Lock()


def _answered(name: str, probe: Callable[[], Availability]) -> Availability:
    """Probe once in this process: a kernel does not change its mind, and loading all programs takes 0.2 s."""
    with _answers_lock:
        if name not in _answers:
            found = probe()
            if found.status is Status.UNKNOWN or is_shortage(found.errno):
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


class BpfPlan(Enforcer):
    """The BPF side of a `KernelPlan`. Everything is optional; `availability` says what is there and why not."""

    name: EnforcerName = "bpf"

    def __init__(self, sink: RecordSink, *, events_per_s: int = 1000) -> None:
        self.sink, self._events_per_s = sink, events_per_s
        self.availability: dict[str, Availability] = {}
        self.shared: BpfShared | None = None
        self.lsm: BpfLsmEnforcer | None = None
        self.counter: LandlockDenialCounter | None = None
        self.network: CgroupBpfEnforcer | None = None

    # -- life -----------------------------------------------------------------------------------------------

    def probe(self) -> Availability:
        """Return what `start` found: loading is the proof."""
        return self.availability.get(self.name) or Availability(enforcer=self.name, status=Status.UNKNOWN)

    def capabilities(self) -> frozenset[Capability]:
        """Return what the programs decide."""
        found: frozenset[Capability] = frozenset()
        for enforcer in (self.lsm, self.network):
            found |= enforcer.capabilities() if enforcer is not None else frozenset()
        return found

    def start(self) -> tuple[Availability, ...]:
        """Load what this kernel takes. Never raises for what cannot be had: the answers say why."""
        self.availability.clear()
        self._load()
        return tuple(self.availability.values())

    def _load(self) -> None:
        if not may_use_bpf():
            self._unavailable("bpf", "CAP_BPF is missing", "run the supervisor as root or with CAP_BPF and CAP_PERFMON")
            return
        try:
            shared = BpfShared.start(self.sink, BpfSettings(events_per_s=self._events_per_s))
        except BpfUnavailable as error:
            self._unavailable("bpf", error.reason, error.hint or "", error.errno)
            return
        self.shared = shared
        self.availability["bpf"] = Availability(
            enforcer="bpf", status=Status.AVAILABLE, proof="tables are filled and answer when asked"
        )
        found = self.availability["bpf-lsm"] = _answered("bpf-lsm", BpfLsmEnforcer().probe)
        if found.usable:
            self.lsm = BpfLsmEnforcer(shared)
            self.lsm.start(self.sink)
            return
        try:
            self.counter = LandlockDenialCounter(shared.loader)
            self.counter.start()
            self.availability["landlock-denials"] = Availability(
                enforcer="landlock-denials", status=Status.AVAILABLE, proof="a refused child was counted exactly"
            )
        except (BpfUnavailable, OSError) as error:
            self.counter = None
            self._unavailable("landlock-denials", without_hint(error), getattr(error, "hint", "") or "", error.errno)

    def start_network(self, domain: Path) -> None:
        """Let programs decide connect and send for control groups below `domain`, where this kernel can."""
        if self.shared is None or self.decides:
            return
        known = _answers.get("cgroup-bpf")
        if known is not None and not known.usable:
            self.availability["cgroup-bpf"] = known
            return
        # not strict: the listener binds and sends on the guests' sockets, and it is in no sandbox's group
        network = CgroupBpfEnforcer(domain, self.shared, strict=False)
        try:
            network.start(self.sink)
        except (BpfUnavailable, OSError) as error:
            self._unavailable("cgroup-bpf", without_hint(error), getattr(error, "hint", "") or "", error.errno)
            return
        # by the programs that stay: others of the same object would be verified once more, which takes 0.2 s
        found = self.availability["cgroup-bpf"] = _answered("cgroup-bpf", network.prove)
        if found.usable:
            self.network = network
        else:
            network.close()

    def _unavailable(self, name: EnforcerName, reason: str, remedy: str, errno: int | None = None) -> None:
        self.availability[name] = Availability(
            enforcer=name, status=Status.UNAVAILABLE, reason=reason, remedy=remedy, errno=errno
        )

    def close(self) -> None:
        """Detach everything; nothing is left in the kernel."""
        if self.counter is not None:
            self.counter.close()
        for enforcer in (self.lsm, self.network):
            if enforcer is not None:
                enforcer.close()
        if self.shared is not None:
            self.shared.close()
        self.shared = self.lsm = self.counter = self.network = None

    def abandon(self) -> None:
        """In a forked child of the host: close the copies of descriptors, detach and change nothing."""
        if self.network is not None:
            self.network.abandon()
        if self.shared is not None:
            self.shared.abandon()
        self.shared = self.lsm = self.counter = self.network = None

    @property
    def decides(self) -> bool:
        """True where BPF-LSM decides."""
        return self.lsm is not None

    # -- policies and sandboxes -----------------------------------------------------------------------------

    def prepare(self, compiled: CompiledPolicy) -> BpfPolicy | None:
        """Fill a policy's tables, where BPF is there at all."""
        return None if self.shared is None else self.shared.prepare(compiled)

    def add_to(self, draft: Draft) -> None:
        """Fill the policy's tables; say whether programs decide its files, and its network."""
        draft.bpf, draft.programs_decide = self.prepare(draft.compiled), self.decides
        draft.host_network = (
            self.network is not None
            and draft.bpf is not None
            and draft.isolation == "process"
            and cgroup_eligibility.suits(draft.compiled)
        )

    def open(self, sandbox_id: str, prepared: Prepared, *, host_network: bool) -> Attachment | None:
        """Make a sandbox's entry before its hand-out, where programs read it."""
        if prepared.bpf is None or self.shared is None:
            return None
        return BpfAttachment(self, self.shared, sandbox_id, prepared, host_network=host_network)

    def running(self) -> frozenset[str]:
        """Return which of the mechanisms work."""
        parts = {"bpf-lsm": self.lsm, "landlock-denials": self.counter}
        return frozenset(name for name, part in parts.items() if part is not None)

    def recorded(self, isolation: Origin) -> frozenset[Capability]:
        """Return what BPF-LSM decides: its programs record every refusal."""
        return self.lsm.capabilities() if self.lsm is not None and isolation == "process" else frozenset()


class BpfAttachment(Attachment):
    """One sandbox in the maps. Its entry exists where programs read it."""

    def __init__(
        self, plan: BpfPlan, shared: BpfShared, sandbox_id: str, prepared: Prepared, *, host_network: bool
    ) -> None:
        assert prepared.bpf is not None
        self._plan, self._shared, self._id = plan, shared, sandbox_id
        self._policy, self._shadow = prepared.bpf, prepared.shadow_bpf
        self._counted = self._recorded = self._repeated = self._task = 0
        self._groups: frozenset[int] = frozenset()
        self._host_network = host_network
        if plan.lsm is not None or host_network:
            shared.entry(sandbox_id, self._policy, self._shadow)
            self.slots = shared.slot_page(sandbox_id)

    @property
    def _works(self) -> bool:
        """False once the plan is closed, or in a forked child: nothing is in the kernel any more."""
        return self._plan.shared is self._shared

    def attach_task(self, tid: int, slot: int | None) -> bool:
        """Put a handed-out cell, or a thread, under the programs: before any guest code runs.

        From now on Landlock's count is that of this task's domain: a thread's process may be in none.
        """
        self._task = tid
        if self._plan.lsm is not None:
            self._plan.lsm.attach_task(tid, self._id, self._policy, self._shadow, slot=slot)
        return self._plan.decides

    def attach_group(self, cgroup: Path) -> None:
        """Put the sandbox's control group under the network programs. Raises EnforcementError without them."""
        if self._plan.network is None:
            raise EnforcementError(f"cgroup-bpf, {cgroup}: its programs are not attached", missing="cgroup-bpf")
        self._groups |= {self._plan.network.attach_cgroup(cgroup, self._id, self._policy)}

    def release_group(self) -> None:
        """No process is left in its control group. Its entry may have been closed before."""
        groups, self._groups = self._groups, frozenset()
        if self._plan.network is not None:
            self._plan.network.forget(groups)

    def rebind(self, prepared: Prepared) -> None:
        """Swap the tables in one store, after the records of what was refused before."""
        if prepared.bpf is None:
            return
        self._policy = prepared.bpf
        if self._works and self._shared.entries.get(self._id) is not None:
            self._shared.records.drain()
            self._shared.update(self._id, self._policy, self._shadow)

    def quiet(self, pid: int) -> bool:
        """True where programs sent and counted nothing, and Landlock counted no more than at the last look."""
        plan, shared = self._plan, self._shared
        if plan.shared is not shared:  # closed, or in a forked child: it has nothing there
            return True
        if shared.entries.get(self._id) is not None:
            return False  # programs record what they refuse it; without an entry they know nothing of it
        counter = plan.counter
        if counter is None or (question := counter.question) is None:
            return True
        return not (self._recorded or self._repeated) and question.denials(self._task or pid) in (None, self._counted)

    def drain(self) -> None:
        """Hand on every record up to now."""
        self._shared.records.drain()

    def note_recorded(self, record: KernelRecord, *, named: bool) -> None:
        """Take note of a refusal by Landlock that another enforcer recorded: the count must not report it again.

        At most: what the root view refuses by absence is not in Landlock's count, and the record does not say which it
        was. A guest can so hide the number of refusals that it kept from the listener, at the price of one event each.
        One that is not `named` leaves its event to the count, in which its second try is no refusal of its own.
        """
        if self._plan.counter is None:
            return
        if named:
            self._recorded += record.count * record.tries
        elif record.refused == errno.EACCES and record.verdict is Verdict.ALLOW:
            self._repeated += record.count

    def emit_uncounted(self, pid: int) -> None:
        """Send, as counts, what the programs and Landlock refused and no record named."""
        if not self._works:
            return
        self._emit_dropped(pid)
        counter = self._plan.counter
        found = counter.read(self._task or pid) if counter is not None else None
        if found is None:
            return
        missing = found.denials - self._counted - self._recorded
        missing -= min(self._repeated, missing // 2)  # at most: the guest says which calls it made twice
        self._counted, self._recorded, self._repeated = found.denials, 0, 0
        if missing > 0:
            self._plan.sink(
                KernelRecord(
                    sandbox_id=self._id,
                    enforcer="landlock",
                    hook="num_denials",
                    capability=Capability.FS_ACCESS,
                    target="",
                    verdict=Verdict.DENY,
                    errno=errno.EACCES,
                    evaluation=Evaluation.COUNTED,
                    code=DenialCode.NOT_GRANTED,
                    reason="Landlock counted it and no record named it: code may have kept the call from the listener",
                    pid=pid,
                    monotonic_ns=time.monotonic_ns(),
                    count=missing,
                )
            )

    def landlock_layers(self, pid: int) -> int | None:
        """Read the number from the task's credentials, as the kernel has them."""
        counter = self._plan.counter
        if not self._works or counter is None:
            return None
        found = counter.read(pid)
        return 0 if found is None else found.layers

    def _emit_dropped(self, pid: int) -> None:
        self._shared.records.emit_uncounted(self._id, pid, "bpf-lsm" if self._plan.decides else "cgroup-bpf")

    def evaluate(self, record: BrokerRecord) -> KernelRecord | None:
        """Ask the sandbox's tables about an operation that the broker refused; None where they do not decide it."""
        decider = self._decider(record)
        if decider is None or not self._works:
            return None
        verdict = ask(self._shared.question, self._policy.index, record.capability, record.target)
        if verdict is Verdict.UNAVAILABLE:
            return None
        return KernelRecord(
            sandbox_id=self._id,
            enforcer=decider,
            hook="ask",
            capability=record.capability,
            target=record.target,
            verdict=verdict,
            evaluation=Evaluation.PROBED,
            reason="the kernel's tables, asked without acting",
            monotonic_ns=time.monotonic_ns(),
        )

    def _decider(self, record: BrokerRecord) -> EnforcerName | None:
        """Return which programs decide an operation of this sandbox; the report names the same.

        Where BPF-LSM decides, the listener connects and binds for the guest, and is asked: its call is in no sandbox.
        """
        by_address = record.capability.family == "net" and not record.target.startswith("unix:")
        if self._plan.lsm is not None and not by_address:
            return self._plan.lsm.name if record.capability in self._plan.lsm.capabilities() else None
        if self._host_network and by_address and record.capability in cgroup_eligibility.DECIDED:
            return "cgroup-bpf"
        return None

    def close(self) -> None:
        """Close the entry: tasks that are left in the sandbox are refused everything."""
        if self._works and self._shared.entries.get(self._id) is not None:
            self._shared.records.drain()
            self._emit_dropped(0)
            self._shared.detach(self._id)
