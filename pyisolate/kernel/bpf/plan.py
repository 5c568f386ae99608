"""What BPF does for one supervisor, by what this kernel lets it do.

With BPF-LSM the programs decide files, exec, memory and the floor for each cell, and Landlock and the root view stay
off, so that a reload may loosen as well as tighten. With CAP_BPF alone they decide the connections of cells on the
host's network, and Landlock's own count of refusals is pulled after each request. Without CAP_BPF there is none of
this, and the report says so. Only tables that decide are asked what they would say of the broker's denials.

What decides connections is loaded for the first policy that connects somewhere: that takes as long as an interpreter to
start, and most policies connect to nothing.
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
        #: the tables: where BPF-LSM decides, or once a policy connects somewhere
        self.shared: BpfShared | None = None
        self.lsm: BpfLsmEnforcer | None = None
        self.counter: LandlockDenialCounter | None = None
        self.network: CgroupBpfEnforcer | None = None
        #: below it are the control groups of sandboxes that programs may judge; None: of none
        self._domain: Path | None = None
        self._network_lock = threading.Lock()
        #: runs a call where nothing confines it that confines who spawns
        self._apart: Callable[[Callable[[], None]], None] = lambda call: call()

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
        found = self.availability["bpf-lsm"] = _answered("bpf-lsm", BpfLsmEnforcer().probe)
        if found.usable:
            if (shared := self._load_tables()) is not None:
                self.lsm = BpfLsmEnforcer(shared)
                self.lsm.start(self.sink)
            return
        try:
            self.counter = LandlockDenialCounter()
            self.counter.start()
            self.availability["landlock-denials"] = Availability(
                enforcer="landlock-denials", status=Status.AVAILABLE, proof="a refused child was counted exactly"
            )
            self.availability["bpf"] = Availability(
                enforcer="bpf", status=Status.AVAILABLE, proof="a program was loaded and answers when asked"
            )
        except (BpfUnavailable, OSError) as error:
            self.counter = None
            self._unavailable("landlock-denials", without_hint(error), getattr(error, "hint", "") or "", error.errno)

    def _load_tables(self) -> BpfShared | None:
        try:
            self.shared = BpfShared.start(self.sink, BpfSettings(events_per_s=self._events_per_s))
        except BpfUnavailable as error:
            self._unavailable("bpf", error.reason, error.hint or "", error.errno)
            return None
        self.availability["bpf"] = Availability(
            enforcer="bpf", status=Status.AVAILABLE, proof="tables are filled and answer when asked"
        )
        return self.shared

    def offer_network(self, domain: Path, apart: Callable[[Callable[[], None]], None]) -> bool:
        """Say whether programs may decide connect and send for control groups below `domain`.

        They are loaded for the first policy that connects somewhere, in `apart`: on a thread that nothing confines.
        """
        if self.decides or not may_use_bpf():
            return False
        known = _answers.get("cgroup-bpf")
        if known is not None and not known.usable:
            self.availability["cgroup-bpf"] = known
            return False
        self._domain, self._apart = domain, apart
        return True

    @property
    def link_descriptors(self) -> tuple[int, ...]:
        """Descriptors that keep the network's programs attached."""
        return () if self.network is None else self.network.link_descriptors

    def _begin_network(self) -> None:
        """Load and prove the network's programs, once. What kept them from it by a shortage is no answer."""
        with self._network_lock:
            if (domain := self._domain) is None or self.network is not None:
                return
            self._apart(lambda: self._start_network(domain))
            found = self.availability.get("cgroup-bpf") or self.availability["bpf"]
            if not is_shortage(found.errno):
                self._domain = None

    def _start_network(self, domain: Path) -> None:
        if (shared := self.shared or self._load_tables()) is None:
            return
        # not strict: the listener binds and sends on the guests' sockets, and it is in no sandbox's group
        network = CgroupBpfEnforcer(domain, shared, strict=False)
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
        """Detach everything; nothing is left in the kernel. A load that is under way is waited for."""
        with self._network_lock:
            self._domain = None
        if self.counter is not None:
            self.counter.close()
        for enforcer in (self.lsm, self.network):
            if enforcer is not None:
                enforcer.close()
        if self.shared is not None:
            self.shared.close()
        self.shared = self.lsm = self.counter = self.network = self._domain = None

    def abandon(self) -> None:
        """In a forked child of the host: close the copies of descriptors, detach and change nothing."""
        self._network_lock = threading.Lock()
        if self.network is not None:
            self.network.abandon()
        if self.counter is not None:
            self.counter.abandon()
        if self.shared is not None:
            self.shared.abandon()
        self.shared = self.lsm = self.counter = self.network = self._domain = None

    @property
    def decides(self) -> bool:
        """True where BPF-LSM decides."""
        return self.lsm is not None

    # -- policies and sandboxes -----------------------------------------------------------------------------

    def prepare(self, compiled: CompiledPolicy) -> BpfPolicy | None:
        """Fill a policy's tables, where there are any."""
        return None if self.shared is None else self.shared.prepare(compiled)

    def add_to(self, draft: Draft) -> None:
        """Fill the policy's tables; say whether programs decide its files, and its network."""
        connects = draft.isolation == "process" and cgroup_eligibility.suits(draft.compiled)
        if connects:
            self._begin_network()
        draft.bpf, draft.programs_decide = self.prepare(draft.compiled), self.decides
        draft.host_network = connects and self.network is not None and draft.bpf is not None

    def open(self, sandbox_id: str, prepared: Prepared, *, host_network: bool) -> Attachment | None:
        """Make a sandbox's entry before its hand-out, where programs read it."""
        if prepared.bpf is None and self.counter is None:
            return None
        return BpfAttachment(self, sandbox_id, prepared, host_network=host_network)

    def running(self) -> frozenset[str]:
        """Return which of the mechanisms work."""
        parts = {"bpf-lsm": self.lsm, "landlock-denials": self.counter}
        return frozenset(name for name, part in parts.items() if part is not None)

    def recorded(self, isolation: Origin) -> frozenset[Capability]:
        """Return what BPF-LSM decides: its programs record every refusal."""
        return self.lsm.capabilities() if self.lsm is not None and isolation == "process" else frozenset()


class BpfAttachment(Attachment):
    """One sandbox in the maps, with an entry where programs read it, and at Landlock's count."""

    def __init__(self, plan: BpfPlan, sandbox_id: str, prepared: Prepared, *, host_network: bool) -> None:
        self._plan, self._id = plan, sandbox_id
        self._policy, self._shadow = prepared.bpf, prepared.shadow_bpf
        self._counted = self._recorded = self._repeated = self._task = 0
        self._groups: frozenset[int] = frozenset()
        self._host_network = host_network
        #: None where no program reads an entry of this sandbox
        self._shared: BpfShared | None = None
        if (plan.lsm is not None or host_network) and plan.shared is not None and self._policy is not None:
            self._shared = plan.shared
            self._shared.entry(sandbox_id, self._policy, self._shadow)
            self.slots = self._shared.slot_page(sandbox_id)

    @property
    def _tables(self) -> BpfShared | None:
        """What its entry is in; None without one, once the plan is closed, and in a forked child."""
        return self._shared if self._plan.shared is self._shared else None

    @property
    def led_as(self) -> tuple[int, int]:
        """The control group that its sockets are of, where it connects by itself."""
        return 0, (next(iter(self._groups)) if self._host_network and len(self._groups) == 1 else 0)

    def attach_task(self, tid: int, slot: int | None) -> bool:
        """Put a handed-out cell, or a thread, under the programs: before any guest code runs.

        From now on Landlock's count is that of this task's domain: a thread's process may be in none.
        """
        self._task = tid
        if self._plan.lsm is not None and self._policy is not None:
            self._plan.lsm.attach_task(tid, self._id, self._policy, self._shadow, slot=slot)
        return self._plan.decides

    def attach_group(self, cgroup: Path) -> None:
        """Put the sandbox's control group under the network programs. Raises EnforcementError without them."""
        if self._plan.network is None or self._policy is None:
            raise EnforcementError(f"cgroup-bpf, {cgroup}: its programs are not attached", missing="cgroup-bpf")
        self._groups |= {self._plan.network.attach_cgroup(cgroup, self._id, self._policy)}

    def release_group(self) -> None:
        """No process is left in its control group. Its entry may have been closed before."""
        groups, self._groups = self._groups, frozenset()
        if self._plan.network is not None:
            self._plan.network.forget(groups)

    def rebind(self, prepared: Prepared) -> None:
        """Swap the tables in one store, after the records of what was refused before."""
        if (tables := self._tables) is None or tables.entries.get(self._id) is None:
            return
        # one that was prepared before there were tables gets its own, which the entry holds
        self._policy = prepared.bpf or tables.prepare(prepared.compiled)
        tables.records.drain()
        tables.update(self._id, self._policy, self._shadow)
        if prepared.bpf is None:
            self._policy.close()

    def quiet(self, pid: int) -> bool:
        """True where programs sent and counted nothing, and Landlock counted no more than at the last look."""
        if (tables := self._tables) is not None and tables.entries.get(self._id) is not None:
            return False  # programs record what they refuse it; without an entry they know nothing of it
        counter = self._plan.counter  # None once the plan is closed, or in a forked child
        if counter is None or (question := counter.question) is None:
            return True
        return not (self._recorded or self._repeated) and question.denials(self._task or pid) in (None, self._counted)

    def drain(self) -> None:
        """Hand on every record up to now."""
        if (tables := self._tables) is not None:
            tables.records.drain()

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
        if (tables := self._tables) is not None:
            self._emit_dropped(tables, pid)
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
        if (counter := self._plan.counter) is None:
            return None
        found = counter.read(pid)
        return 0 if found is None else found.layers

    def _emit_dropped(self, tables: BpfShared, pid: int) -> None:
        tables.records.emit_uncounted(self._id, pid, "bpf-lsm" if self._plan.decides else "cgroup-bpf")

    def evaluate(self, record: BrokerRecord) -> KernelRecord | None:
        """Ask the sandbox's tables about an operation that the broker refused; None where they do not decide it."""
        decider, tables = self._decider(record), self._tables
        if decider is None or tables is None or self._policy is None:
            return None
        verdict = ask(tables.question, self._policy.index, record.capability, record.target)
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
        if (tables := self._tables) is not None and tables.entries.get(self._id) is not None:
            tables.records.drain()
            self._emit_dropped(tables, 0)
            tables.detach(self._id)
