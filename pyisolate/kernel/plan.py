"""Which enforcer decides what on this kernel, proven; and what that means for one policy and one sandbox.

The plan is made once per supervisor. It prepares a policy's kernel tables, gives cells what they need, and writes the
`EnforcementReport`. What a policy means never depends on it: where the kernel cannot do what a rule states, `prepare`
raises EnforcementError (strict) or notes what is missing (best effort).
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ..capability import Capability
from ..cell.confine import CellSpec
from ..decision import Mode
from ..errors import EnforcementError
from ..limits.rlimit import COMMON_RLIMITS
from ..native import process
from ..policy.compiled import CompiledPolicy
from ..telemetry.event import BrokerRecord, KernelRecord
from ..telemetry.sandbox import Probe
from . import cgroup_net, seccomp
from .bpf_plan import BpfPlan
from .enforcer import Availability, EnforcementReport, RecordSink
from .landlock import LandlockEnforcer, LandlockRuleset
from .namespaces import NamespaceEnforcer
from .notify import Listener, NotificationEnforcer
from .reach import interpreter_out_of_reach
from .report import write_report
from .rootview import RootView, RootViewBuilder

if TYPE_CHECKING:
    from ..limits.cgroup import CgroupLease, CgroupTree
    from .bpf_state import BpfPolicy
    from .unnamed import Counted

_log = logging.getLogger("pyisolate.kernel")


@dataclass(frozen=True)
class CellTraits:
    """Whom cells run as and what the supervisor may do."""

    uid: int
    gid: int
    started_by_root: bool
    full_telemetry: bool = False
    #: records a second that one sandbox's BPF programs send; all are counted
    kernel_events_per_s: int = 1000


@dataclass
class Prepared:
    """One policy with its kernel tables, shared by all of its sandboxes."""

    compiled: CompiledPolicy
    ruleset: LandlockRuleset | None = None
    root_view: RootView | None = None
    bpf: BpfPolicy | None = None
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    #: a policy that refuses nothing: what it would refuse is recorded
    shadow: CompiledPolicy | None = None
    shadow_bpf: BpfPolicy | None = None
    #: by what was applied and what failed: sandboxes whose cells said the same share one
    reports: dict[tuple[Hashable, ...], EnforcementReport] = field(default_factory=dict)

    def descriptors(self) -> dict[str, int]:
        """Return the descriptors that a cell needs, by name, in the order it uses them."""
        named: dict[str, int] = {}
        if self.root_view is not None:
            named["root view"] = self.root_view.fd
        if self.ruleset is not None:
            named["landlock"] = self.ruleset.fd
        return named

    def abandon(self) -> None:
        """In a forked child of the host: close the copies; the kernel's tables are the parent's."""
        self.bpf = None
        self.close()

    def close(self) -> None:
        """Close the tables; sandboxes that use them keep their own references in the kernel."""
        for table in (self.ruleset, self.root_view, self.bpf):
            if table is not None:
                table.close()


class KernelPlan:
    """The enforcers of one supervisor."""

    def __init__(self, traits: CellTraits, sink: RecordSink) -> None:
        self.traits = traits
        self._sink = sink
        self.landlock = LandlockEnforcer()
        self.notification = NotificationEnforcer()
        self.namespaces = NamespaceEnforcer(traits.uid, traits.gid)
        self.builder = RootViewBuilder(traits.uid, traits.gid)
        self.bpf = BpfPlan(sink, observe=traits.full_telemetry, events_per_s=traits.kernel_events_per_s)
        self._bpf_policies: dict[str, BpfPolicy] = {}
        self._bpf_shadows: dict[str, BpfPolicy] = {}
        self.listener: Listener | None = None
        self.availability: dict[str, Availability] = {}
        self._lock = threading.Lock()
        self._program: bytes = b""
        self._native: set[str] = set()
        self._recorded: dict[str, frozenset[Capability]] = {}

    # -- life -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Prove each enforcer live. Starts the listener."""
        self._recorded.clear()
        for enforcer in (self.landlock, self.notification, self.namespaces, self.builder):
            found = enforcer.probe()
            self.availability[found.enforcer] = found
            if not found.usable:
                _log.warning("%s is %s: %s", found.enforcer, found.status.value, found.reason)
        self.bpf.start()
        self.availability |= self.bpf.availability
        if self.usable("seccomp"):
            self.listener = Listener(self._sink)
            self.listener.start()
            # getrandom asks the listener too: policies that deny it are kept, and seen to be, with one program for all
            self._program = seccomp.cell_program(full=self.listener_watches_files, random=False)

    @property
    def listener_watches_files(self) -> bool:
        """True where full telemetry needs the listener: an observer sees no refusal in a path that is absent."""
        return self.traits.full_telemetry and not self.bpf.decides

    def usable(self, enforcer: str) -> bool:
        """True when the enforcer's probe saw it deny."""
        found = self.availability.get(enforcer)
        return found is not None and found.usable

    def close(self) -> None:
        """Stop the listener and the root view builder."""
        if self.listener is not None:
            self.listener.close()
            self.listener = None
        self.builder.close()
        self.bpf.close()

    def abandon(self) -> None:
        """In a forked child of the host: close the copies, forget what belongs to the parent."""
        self.listener = None
        self.builder.abandon()
        self.bpf.abandon()

    # -- cells ----------------------------------------------------------------------------------------------

    def cell_spec(self) -> CellSpec:
        """Return what every cell of this supervisor is like."""
        flags = self.namespaces.clone_flags if self.usable("namespaces") else 0
        return CellSpec(
            uid=self.traits.uid,
            gid=self.traits.gid,
            clone_flags=flags,
            seccomp_program=self._program,
            # An ordinary user's supervisor may read a cell's memory (addresses of system calls) only while it is
            # dumpable (ptrace(2), PTRACE_MODE); root may anyway.
            dumpable=not self.traits.started_by_root,
            rlimits=COMMON_RLIMITS,
        )

    def native_spec(self) -> CellSpec:
        """Return what cells are like that use the host's network themselves."""
        spec = self.cell_spec()
        program = seccomp.cell_program(full=self.listener_watches_files, random=False, native=True)
        return msgspec.structs.replace(
            spec, clone_flags=spec.clone_flags & ~process.CLONE_NEWNET, seccomp_program=program
        )

    def start_network(self, tree: CgroupTree | None) -> tuple[int, ...]:
        """Let programs decide the network of sandboxes in `tree`; return what keeps them attached, () without them."""
        scopes = self.landlock.abi() >= 6 if self.usable("landlock") else False
        place = tree.layout.unified if tree is not None else None
        if tree is None or place is None or not scopes or self.listener is None or not self.usable("namespaces"):
            return ()
        self.bpf.start_network(Path(place.parent) / tree.name)
        if (found := self.bpf.availability.get("cgroup-bpf")) is not None:
            self.availability["cgroup-bpf"] = found
        return () if self.bpf.network is None else self.bpf.network.link_descriptors

    def is_native(self, prepared: Prepared) -> bool:
        """True when a sandbox of this policy gets a cell that uses the host's network itself."""
        return (
            self.bpf.network is not None
            and prepared.bpf is not None
            and prepared.shadow is None
            and cgroup_net.suits(prepared.compiled)
        )

    def attach_network(self, sandbox_id: str, prepared: Prepared, lease: CgroupLease | None) -> None:
        """Put a sandbox's control group under the programs: before any guest code runs. Raises where it cannot."""
        network = self.bpf.network
        if network is None or prepared.bpf is None or lease is None or lease.v2_path is None:
            raise EnforcementError(
                f"enforce policy {prepared.compiled.name!r}: net: the sandbox has no control group for its programs",
                missing="cgroup-bpf",
                hint="Supervisor(network='listener')",
            )
        network.attach_cgroup(lease.v2_path, sandbox_id, prepared.bpf)

    def detach_network(self, sandbox_id: str) -> None:
        """Nobody is left in a sandbox's control group: it may be used again."""
        if self.bpf.network is not None:
            self.bpf.network.forget(sandbox_id)

    def attach_cell(self, pid: int, descriptor: int, asked: int | None = None) -> None:
        """Serve a warm cell's notifications: until `bind`, no guest code runs and everything continues.

        Takes the descriptor. `asked`, of the page in which its hooks tell what they asked, stays the caller's.
        """
        if self.listener is None:
            os.close(descriptor)
            return
        self.listener.attach_warm(descriptor, f"cell:{pid}", asked)

    def require_listener(self) -> None:
        """Raise EnforcementError when the listener that cells wait for has ended: the kernel fails their calls."""
        if self.listener is not None and not self.listener.alive:
            raise EnforcementError(
                "decide system calls: the notification listener has ended",
                missing="seccomp",
                hint="close this supervisor and start another",
            )

    def bind(self, pid: int, sandbox_id: str, prepared: Prepared) -> None:
        """From here on the listener decides a cell's calls by the policy. Raises EnforcementError if it has ended."""
        self.require_listener()
        if self.listener is not None:
            self.listener.bind(
                f"cell:{pid}",
                sandbox_id,
                prepared.compiled,
                full=self.listener_watches_files,
                kind="native" if sandbox_id in self._native else "cell",
                shadow=prepared.shadow,
            )

    def open_sandbox(self, sandbox_id: str, prepared: Prepared, *, native: bool = False) -> tuple[int, int] | None:
        """Make room for a sandbox in the kernel's tables; return (descriptor, page) of its broker slots, if any."""
        if prepared.bpf is None:
            return None
        self._bpf_policies[sandbox_id] = prepared.bpf
        if prepared.shadow_bpf is not None:
            self._bpf_shadows[sandbox_id] = prepared.shadow_bpf
        if native:
            self._native.add(sandbox_id)
        return self.bpf.open(sandbox_id, prepared.bpf, prepared.shadow_bpf, native=native)

    def attach_task(self, tid: int, sandbox_id: str, prepared: Prepared, slot: int | None = None) -> bool:
        """Put a cell, or a sandbox thread, under the BPF programs: after its own set-up, before any guest code.

        `slot` is the number of its broker slot, where it has one of its own. Returns whether they decide there.
        """
        if prepared.bpf is not None:
            self.bpf.attach(tid, sandbox_id, prepared.bpf, prepared.shadow_bpf, slot=slot)
        return prepared.bpf is not None and self.bpf.decides

    def rebind(self, sandbox_id: str, prepared: Prepared) -> None:
        """Swap the tables that the kernel side reads, each whole; what was refused before is told before."""
        if prepared.bpf is not None:
            self._bpf_policies[sandbox_id] = prepared.bpf
            self.bpf.rebind(sandbox_id, prepared.bpf, self._bpf_shadows.get(sandbox_id))
        if self.listener is not None:
            self.listener.drain_now(sandbox_id)
            self.listener.update(sandbox_id, prepared.compiled)

    def swaps_files(self, sandbox_id: str) -> bool:
        """True where file rules can be swapped from outside (BPF-LSM)."""
        return self.bpf.decides

    def detach_cell(self, pid: int) -> None:
        """A cell that was never handed out is gone."""
        if self.listener is not None:
            self.listener.detach(f"cell:{pid}")

    def unbind(self, sandbox_id: str) -> None:
        """A sandbox is gone; its last records have been drained."""
        self._bpf_policies.pop(sandbox_id, None)
        self._bpf_shadows.pop(sandbox_id, None)
        self._native.discard(sandbox_id)
        self.bpf.detach(sandbox_id)
        if self.listener is not None:
            self.listener.detach(sandbox_id)

    def drain(self, sandbox_id: str) -> None:
        """Return once every kernel record up to now has reached the sink."""
        if self.listener is not None:
            self.listener.drain_now(sandbox_id)
        self.bpf.drain()

    def tell_unnamed(self, sandbox_id: str, pid: int) -> None:
        """Have refusals told that were counted and of which no record came. After `drain`, and what the guest said."""
        if self.listener is not None:
            self.listener.tell_unnamed(sandbox_id, pid)
        self.bpf.tell_unnamed(sandbox_id, pid)

    def take_untold(self, sandbox_id: str) -> list[tuple[Counted, int]]:
        """Return, once, the broker's refusals that an ended guest had not reported; see `Listener.take_untold`."""
        return [] if self.listener is None else self.listener.take_untold(sandbox_id)

    def probe_of(self, sandbox_id: str) -> Probe | None:
        """Return what asks the kernel's own tables about an operation that the broker refused, if anything can."""
        asks_bpf, listener = self.bpf.probe_of(self._bpf_policies, sandbox_id), self.listener

        def probe(record: BrokerRecord) -> KernelRecord | None:
            found = asks_bpf(record) if asks_bpf is not None else None
            if found is None and listener is not None:
                found = listener.evaluate(sandbox_id, record.capability, record.target)
            return found

        return probe

    def why_unavailable(self, capability: Capability) -> str:
        """Say why the kernel's verdict on a capability cannot be known here."""
        return "Landlock and seccomp have no mode that records without refusing"

    def recorded(self, isolation: str) -> frozenset[Capability]:
        """Return the capabilities of which some enforcer records by itself what it refuses or lets through."""
        if (known := self._recorded.get(isolation)) is not None:
            return known
        found: frozenset[Capability] = frozenset()
        if self.listener is not None:
            found |= self.notification.capabilities()
        if self.bpf.lsm is not None and isolation == "process":
            found |= self.bpf.lsm.capabilities()
        self._recorded[isolation] = found
        return found

    # -- policies -------------------------------------------------------------------------------------------

    def prepare(self, compiled: CompiledPolicy, isolation: str, enforcement: str) -> Prepared:
        """Build the kernel tables of a policy. Raises EnforcementError (strict) where one cannot be built."""
        missing: list[str] = []
        notes: list[str] = []
        prepared = Prepared(compiled)
        fs_enforced = compiled.mode_of("fs") is Mode.ENFORCE
        try:
            prepared.bpf = self.bpf.prepare(compiled)
            if self.bpf.decides:
                pass  # its programs decide files, in monitor mode too; Landlock would keep a reload from loosening
            elif not fs_enforced:
                self._prepare_monitored(prepared, missing, notes)
            else:
                self._prepare_files(prepared, isolation, enforcement == "strict", missing, notes)
            if self.traits.started_by_root and isolation == "process" and prepared.root_view is None:
                closed = interpreter_out_of_reach(self.traits.uid, self.traits.gid)
                if closed is not None:
                    missing.append(
                        f"no import: without a root view, {closed} hides the interpreter from the cell's user"
                    )
            if self.traits.started_by_root and _connects_to_unix(compiled):
                missing.append(
                    "rule net: unix: the peer would see root, the supervisor: neither Landlock nor the listener "
                    "can make the guest connect as itself"
                )
            if not self.usable("seccomp"):
                missing.append(self._why_missing("seccomp", "system calls, network and processes"))
            if isolation == "process" and not self.usable("namespaces"):
                missing.append(self._why_missing("namespaces", "processes and signals outside the sandbox"))
            if missing and enforcement == "strict":
                raise EnforcementError(
                    f"enforce policy {compiled.name!r}: {'; '.join(missing)}",
                    rule=missing[0],
                    missing=missing[0],
                    hint=self._remedy(),
                )
        except BaseException:
            prepared.close()
            raise
        prepared.missing, prepared.notes = tuple(missing), tuple(notes)
        return prepared

    def _prepare_monitored(self, prepared: Prepared, missing: list[str], notes: list[str]) -> None:
        """Leave the host's files in sight; Landlock keeps what else is enforced: programs, TCP ports, scopes."""
        compiled = prepared.compiled
        notes.append(
            "fs is in monitor mode: the guest sees the host's files as its user may, and as Landlock cannot record "
            "without refusing, there is no kernel verdict on them (kernel_decision is unavailable); what native code "
            "opens is recorded with telemetry='full' only"
        )
        if compiled.mode_of("import") is Mode.ENFORCE:
            notes.append("import is enforced by the broker alone: while fs is in monitor mode, all files can be read")
        if compiled.mode_of("random") is Mode.ENFORCE and not compiled.allow_random:
            notes.append("random is refused by the listener; /dev/urandom can be read while fs is in monitor mode")
        if self.usable("landlock"):
            prepared.ruleset = self.landlock.prepare(compiled)
            notes += prepared.ruleset.notes
        else:
            missing.append(self._why_missing("landlock", "programs and scopes"))

    def prepare_shadow(self, compiled: CompiledPolicy) -> Prepared:
        """Return the tables of a policy that shall only be told of; its `compiled` and `bpf` are used by `shadowed`."""
        return Prepared(compiled, bpf=self.bpf.prepare(compiled))

    def shadowed(self, prepared: Prepared, shadow: Prepared) -> Prepared:
        """Return `prepared` with a shadow policy beside it. It shares the tables of both, which their owner closes."""
        notes = [*prepared.notes, f"shadow policy {shadow.compiled.name!r}: what it would refuse is recorded"]
        if self.listener is None:
            notes.append("shadow policy: judged by the broker alone, without the notification listener")
        if not self.bpf.decides:
            notes.append(
                "shadow policy: files, imports and programs are judged by the broker in the guest alone (no BPF-LSM): "
                "native code that goes round it is not seen; network, fork and memory are judged by the listener too"
            )
        return replace(
            prepared,
            notes=tuple(notes),
            shadow=shadow.compiled,
            shadow_bpf=shadow.bpf if self.bpf.decides else None,
            reports={},
        )

    def _prepare_files(
        self, prepared: Prepared, isolation: str, strict: bool, missing: list[str], notes: list[str]
    ) -> None:
        compiled = prepared.compiled
        # The view first: Landlock's rules are keyed on the files that the cell finds in it.
        if isolation == "process":
            if self.usable("root view"):
                prepared.root_view = self.builder.prepare(compiled, strict=strict)
                notes += prepared.root_view.notes
                missing += [f"rule {rule}" for rule in prepared.root_view.unenforced]
            else:
                missing.append(self._why_missing("root view", "fs.metadata and hidden paths"))
        if self.usable("landlock"):
            # Landlock would refuse first, and the programs would have nothing to record
            native = isolation == "process" and self.is_native(prepared)
            prepared.ruleset = self.landlock.prepare(compiled, prepared.root_view, tcp=not native)
            notes += prepared.ruleset.notes
        else:
            missing.append(self._why_missing("landlock", "fs rules"))
        if prepared.root_view is None:
            rules = self.landlock.unenforceable(compiled)
            missing += [f"rule {rule}: Landlock cannot subtract a path from a grant" for rule in rules]

    def _why_missing(self, enforcer: str, what: str) -> str:
        found = self.availability.get(enforcer)
        return (
            f"{what}: {enforcer} is {found.status.value if found else 'not probed'} ({found.reason if found else ''})"
        )

    def _remedy(self) -> str:
        remedies = [a.remedy for a in self.availability.values() if not a.usable and a.remedy]
        return "; ".join([*remedies, "or pass enforcement='best_effort' to accept less"])

    # -- report ---------------------------------------------------------------------------------------------

    def report(
        self,
        prepared: Prepared,
        isolation: str,
        enforcement: str,
        steps: tuple[str, ...],
        failed: tuple[tuple[str, str], ...],
        *,
        lease: CgroupLease | None = None,
        cgroup_reason: str = "",
    ) -> EnforcementReport:
        """Say who enforces what in one sandbox, from what was proven and what the cell's steps returned."""
        made_of = (isolation, enforcement, steps, failed, lease is not None, cgroup_reason, self.listener is not None)
        if (known := prepared.reports.get(made_of)) is not None:
            return known
        report = write_report(
            self, prepared, isolation, enforcement, steps, failed, has_cgroup=lease is not None, why=cgroup_reason
        )
        if not failed:  # what failed is the kernel's text, and of any number
            prepared.reports[made_of] = report
        return report


def _connects_to_unix(compiled: CompiledPolicy) -> bool:
    return compiled.mode_of("net") is Mode.ENFORCE and any(rule.unix_path and rule.allow for rule in compiled.net)
