"""Which enforcer decides what on this kernel, proven; and what that means for one policy and one sandbox.

The plan is made once per supervisor. It prepares a policy's kernel tables, gives cells what they need, and writes the
`EnforcementReport`. What a policy means never depends on it: where the kernel cannot do what a rule states, `prepare`
raises EnforcementError (strict) or notes what is missing (best effort).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ..capability import Capability
from ..cell.confine import CellSpec
from ..choices import Enforcement, EnforcerName, Isolation, Origin
from ..decision import Mode
from ..enforcement import Availability
from ..errors import EnforcementError
from ..limits.coverage import cannot_freeze, unheld
from ..limits.rlimit import COMMON_RLIMITS
from ..native import looks, process
from ..native.account import Account
from ..policy import workspace
from ..policy.asking import OF_FILES
from ..policy.compile import without_workspace
from ..policy.compiled import CompiledPolicy, FsRight
from .binding import KernelBinding
from .bpf.plan import BpfPlan
from .enforcer import AskedSink, Enforcer, RecordSink
from .identity import Identity, MountTable
from .landlock import LandlockEnforcer
from .namespaces import NamespaceEnforcer
from .prepared import CellTraits, Draft, Prepared
from .report import Reporter
from .rootview.view import RootViewBuilder
from .seccomp import filter as seccomp
from .seccomp.enforcer import NotificationEnforcer, require_alive, warm_name
from .seccomp.filter import quiet_calls
from .seccomp.listener import Listener
from .written import uncounted

if TYPE_CHECKING:
    from ..limits.cgroup import CgroupTree

_log = logging.getLogger("pyisolate.kernel")
#: A host that replaces a place once a millisecond cannot be followed.
_TRIES = 4
#: What waits for answers and takes a root view.
_OF_ROOT_VIEW = OF_FILES | {Capability.PROCESS_EXEC}


class KernelPlan:
    """The enforcers of one supervisor."""

    def __init__(self, traits: CellTraits, sink: RecordSink, on_asked: AskedSink | None = None) -> None:
        self.traits = traits
        self.bpf = BpfPlan(sink, events_per_s=traits.kernel_events_per_s)
        self.builder = RootViewBuilder(traits.uid, traits.gid, many_users=traits.uid_range is not None)
        self.landlock = LandlockEnforcer()
        self.notification = NotificationEnforcer(sink, on_asked)
        self.namespaces = NamespaceEnforcer(traits.uid, traits.gid)
        #: in the order in which they add to a policy: BPF-LSM leaves nothing to the file enforcers, and Landlock's
        #: rules are keyed on the files of the root view
        self.enforcers: tuple[Enforcer, ...] = (
            self.bpf,
            self.builder,
            self.landlock,
            self.notification,
            self.namespaces,
        )
        #: never changed but replaced, once a supervisor has started: others read it
        self.availability: dict[str, Availability] = {}
        self.reporter = Reporter(lambda: self.availability, self.running, full_telemetry=traits.full_telemetry)
        self._program: bytes = b""
        self._recorded: dict[str, frozenset[Capability]] = {}
        self._watched: dict[str, frozenset[Capability]] = {}
        self._mounts = MountTable()

    # -- life -----------------------------------------------------------------------------------------------

    def start_programs(self) -> None:
        """Load the BPF programs that this kernel takes: whether they decide is known from then on."""
        looks.keep(self)
        self._recorded.clear()
        self._watched.clear()
        for found in self.bpf.start():
            self.availability[found.enforcer] = found

    def start(self) -> None:
        """Prove each other enforcer live and let it begin to work. After `start_programs`."""
        for enforcer in self.enforcers:
            if enforcer is self.bpf:
                continue
            for found in enforcer.start():
                self.availability[found.enforcer] = found
                if not found.usable and found.enforcer == enforcer.name:
                    _log.warning("%s is %s: %s", found.enforcer, found.status.value, found.reason)
        if self.listener is not None:
            # getrandom asks the listener too: policies that deny it are kept, and seen to be, with one program for all
            self._program = seccomp.cell_program(full=self.listener_watches_files, random=False)

    @property
    def listener(self) -> Listener | None:
        """The notification listener, while it runs."""
        return self.notification.listener

    def lead(self, table: int, port: int) -> None:
        """Have the listener write down whose connections to the egress proxy are. Raises OSError."""
        if self.listener is not None:
            self.listener.lead(table, port)

    def running(self) -> frozenset[str]:
        """Return the names of all mechanisms that work in this supervisor."""
        return frozenset().union(*(enforcer.running() for enforcer in self.enforcers))

    @property
    def listener_watches_files(self) -> bool:
        """True where the listener records what native code asks of files: where no BPF program does so."""
        return not self.bpf.decides

    def usable(self, enforcer: EnforcerName) -> bool:
        """True when the enforcer's probe saw it deny."""
        found = self.availability.get(enforcer)
        return found is not None and found.usable

    def close(self) -> None:
        """Stop all enforcers: what decides system calls first, what it reads last."""
        for enforcer in reversed(self.enforcers):
            enforcer.close()
        self._mounts.close()
        looks.let_go(self)

    def abandon(self) -> None:
        """In a forked child of the host: close the copies, forget what belongs to the parent."""
        for enforcer in self.enforcers:
            enforcer.abandon()
        looks.abandon()
        self._mounts.abandon()
        self._mounts = MountTable()  # the parent's file says once that mounts changed

    # -- cells ----------------------------------------------------------------------------------------------

    def cell_spec(self) -> CellSpec:
        """Return what every cell of this supervisor is like."""
        flags = self.namespaces.clone_flags if self.usable("namespaces") else 0
        others = flags & process.CLONE_NEWUSER != 0  # cells may be other users than their zygote
        full = self.traits.full_telemetry
        return CellSpec(
            uid=self.traits.uid,
            gid=self.traits.gid,
            zygote_uid=self.traits.zygote_uid if others and self.traits.zygote_uid is not None else self.traits.uid,
            uid_range=self.traits.uid_range if others else None,
            clone_flags=flags,
            seccomp_program=self._program,
            forking_program=self._forking_program(native=False),
            # An ordinary user's supervisor may read a cell's memory (addresses of system calls) only while it is
            # dumpable (ptrace(2), PTRACE_MODE); root may anyway.
            dumpable=not self.traits.started_by_root,
            rlimits=COMMON_RLIMITS,
            quiet_calls=quiet_calls(looks_alone=full) if self.listener_watches_files else (),
            every_file_call=full,
            reports=self.listener_watches_files,
        )

    def native_spec(self) -> CellSpec:
        """Return what cells are like that use the host's network themselves."""
        spec = self.cell_spec()
        program = seccomp.cell_program(full=self.listener_watches_files, random=False, native=True)
        return msgspec.structs.replace(
            spec,
            clone_flags=spec.clone_flags & ~process.CLONE_NEWNET,
            seccomp_program=program,
            forking_program=self._forking_program(native=True),
        )

    def _forking_program(self, *, native: bool) -> bytes:
        if not self._program:
            return b""
        return seccomp.cell_program(full=self.listener_watches_files, random=False, native=native, forks=True)

    def offer_network(self, tree: CgroupTree | None, apart: Callable[[Callable[[], None]], None]) -> bool:
        """Say whether programs may decide the network of sandboxes in `tree`; see `BpfPlan.offer_network`."""
        scopes = self.landlock.abi() >= 6 if self.usable("landlock") else False
        place = tree.layout.unified if tree is not None else None
        if tree is None or place is None or not scopes or self.listener is None or not self.usable("namespaces"):
            return False
        offered = self.bpf.offer_network(Path(place.parent) / tree.name, apart)
        self._note_bpf()
        return offered

    def _note_bpf(self) -> None:
        if any(self.availability.get(name) is not found for name, found in self.bpf.availability.items()):
            self.availability = {**self.availability, **self.bpf.availability}

    def is_native(self, prepared: Prepared) -> bool:
        """True when a sandbox of this policy gets a cell that uses the host's network itself."""
        return self.bpf.network is not None and prepared.host_network and prepared.shadow is None

    def attach_cell(self, pid: int, descriptor: int, asked: int | None = None, account: Account | None = None) -> None:
        """Serve a warm cell's notifications: until `bind`, no guest code runs and everything continues.

        Takes the descriptor. `asked`, of the page in which its hooks tell what they asked, stays the caller's.
        """
        if self.listener is None:
            os.close(descriptor)
            return
        self.listener.attach_warm(descriptor, warm_name(pid), asked, account)

    def require_listener(self) -> None:
        """Raise EnforcementError when the listener that cells wait for has ended: the kernel fails their calls."""
        if self.listener is not None:
            require_alive(self.listener)

    # -- sandboxes ------------------------------------------------------------------------------------------

    def binding(self, sandbox_id: str) -> KernelBinding:
        """Return a sandbox's place at every enforcer; empty until its `open`."""
        return KernelBinding(sandbox_id, self.enforcers, self.reporter)

    @property
    def swaps_files(self) -> bool:
        """True where file rules can be swapped from outside (BPF-LSM)."""
        return self.bpf.decides

    def detach_cell(self, pid: int) -> None:
        """A cell that was never handed out is gone."""
        if self.listener is not None:
            self.listener.detach(warm_name(pid))

    def why_unavailable(self, capability: Capability) -> str:
        """Say why the kernel's verdict on a capability cannot be known here."""
        return "Landlock and seccomp have no mode that records without refusing"

    def recorded(self, isolation: Origin) -> frozenset[Capability]:
        """Return the capabilities of which some enforcer records by itself what it refuses or lets through."""
        if (known := self._recorded.get(isolation)) is not None:
            return known
        found = frozenset[Capability]().union(*(enforcer.recorded(isolation) for enforcer in self.enforcers))
        self._recorded[isolation] = found
        return found

    def watched(self, isolation: Origin) -> frozenset[Capability]:
        """Return the capabilities of which some enforcer records what monitor mode lets through, and no refusal."""
        if (known := self._watched.get(isolation)) is not None:
            return known
        found = frozenset[Capability]().union(*(enforcer.watched(isolation) for enforcer in self.enforcers))
        self._watched[isolation] = found
        return found

    # -- policies -------------------------------------------------------------------------------------------

    def prepare(self, compiled: CompiledPolicy, isolation: Isolation, enforcement: Enforcement) -> Prepared:
        """Build the kernel tables of a policy. Raises EnforcementError (strict) where one cannot be built.

        Made again when a place was replaced while they were made.
        """
        for _ in range(_TRIES):
            prepared = self._prepare(compiled, isolation, enforcement)
            if prepared.current:
                return prepared
            prepared.close()
        raise EnforcementError(
            f"enforce policy {compiled.name!r}: what its paths name changed while its tables were made, {_TRIES} times",
            hint="grant directories that are not replaced all the time",
        )

    def _prepare(self, compiled: CompiledPolicy, isolation: Isolation, enforcement: Enforcement) -> Prepared:
        why = self._no_workspace(compiled, isolation)
        if why is not None:
            compiled = without_workspace(compiled)
        unasked = self._no_files_asked_about(compiled, isolation)
        if unasked is not None:
            compiled = msgspec.structs.replace(
                compiled, ask=tuple(one for one in compiled.ask if one not in _OF_ROOT_VIEW)
            )
        draft = Draft(compiled, isolation, enforcement == "strict", self.availability, self.traits)
        if unasked is not None:
            draft.missing.append(f"ask: files and programs: {unasked}")
        if why is not None:
            draft.notes.append(f"no workspace: {why}")
        elif compiled.workspace_bytes is not None:
            draft.notes.append(_about_workspace(compiled))
        if not self.bpf.decides:  # its tables hold names
            draft.identity = Identity(draft.held, self._mounts)
        try:
            for enforcer in self.enforcers:
                enforcer.add_to(draft)
            self._note_bpf()  # it loads programs for the first policy that connects somewhere
            if self.traits.started_by_root:
                _check_as_root(draft)
            _check_isolation(draft)
            if isolation == "process" and (why := cannot_freeze(compiled.limits, self.availability.get("cgroup"))):
                draft.missing.append(why)
            if draft.missing and draft.strict:
                raise EnforcementError(
                    f"enforce policy {compiled.name!r}: {'; '.join(draft.missing)}",
                    rule=draft.missing[0],
                    missing=draft.missing[0],
                    hint=self._remedy(isolation, draft.missing),
                )
        except BaseException:
            draft.finish().close()
            raise
        return draft.finish()

    def _no_files_asked_about(self, compiled: CompiledPolicy, isolation: Isolation) -> str | None:
        """Say why the host cannot be asked about files and programs; None where it can, or is not to be."""
        if not _OF_ROOT_VIEW & set(compiled.ask):
            return None
        if isolation == "thread":
            return "of a sandbox thread, the notification listener sees no file call, and programs have no gate"
        if self.bpf.decides:
            return "BPF-LSM refuses files that a guest is given as it refuses those that it opens, and knows no gate"
        if self.listener is None:
            return "there is no notification listener"
        return None if self.usable(self.builder.name) else f"the {self.builder.name} is not available"

    def _no_workspace(self, compiled: CompiledPolicy, isolation: Isolation) -> str | None:
        """Say why a sandbox of this policy can have no workspace; None where it has one, or is to have none."""
        if compiled.workspace_bytes is None:
            return None
        if isolation == "thread":
            return "a sandbox thread has the host's own files"
        if not self.usable(self.builder.name):
            return f"the {self.builder.name} is not available"
        making = FsRight.CREATE | FsRight.DELETE
        if compiled.mode_of("fs") is Mode.ENFORCE and any(r.path == "/" and r.allow & making for r in compiled.fs):
            return 'the policy grants making names in "/": grant it in the directories that need it'
        return None

    def prepare_shadow(self, compiled: CompiledPolicy) -> Prepared:
        """Return the tables of a policy that only records; its `compiled` and `bpf` are used by `shadowed`."""
        return Prepared(compiled, bpf=self.bpf.prepare(compiled))

    def shadowed(self, prepared: Prepared, shadow: Prepared, isolation: Isolation) -> Prepared:
        """Return `prepared` with a shadow policy beside it. It shares the tables of both, which their owner closes."""
        notes = [*prepared.notes, f"shadow policy {shadow.compiled.name!r}: what it would refuse is recorded"]
        if self.listener is None:
            notes.append("shadow policy: judged by the broker alone, without the notification listener")
        elif self.listener_watches_files and isolation == "process":
            notes.append(
                "shadow policy: the listener sees every file call, so that opening a file costs ten times as much"
            )
        elif not self.bpf.decides:
            notes.append(
                "shadow policy: files, imports and programs are judged by the broker in the guest alone (no BPF-LSM): "
                "native code that goes round it is not seen; network, fork and memory are judged by the listener too"
            )
        return replace(
            prepared,
            notes=tuple(notes),
            shadow=shadow.compiled,
            shadow_bpf=shadow.bpf if self.bpf.decides else None,
        )

    def _remedy(self, isolation: Isolation, missing: Sequence[str]) -> str:
        """Return what to do about the enforcers that `missing` names; about one cause once."""
        unusable = [a for a in self.availability.values() if not a.usable and a.remedy]
        named = [a for a in unusable if any(f"{a.enforcer} is " in line for line in missing)]
        remedies = list(dict.fromkeys(a.remedy for a in named or unusable))
        if isolation == "thread":
            remedies = ["take them out (limits={'memory': None, ...}), or use isolation='process'"]
        return "; ".join([*remedies, "or pass enforcement='best_effort' to accept less"])


def _about_workspace(compiled: CompiledPolicy) -> str:
    leads = workspace.links(compiled)
    others = f"; {' and '.join(leads)} lead there" if leads else ""
    return f"{workspace.rule_text(compiled.workspace_bytes or 0)} of memory at {workspace.HOME}{others}"


def _check_isolation(draft: Draft) -> None:
    """Note what the policy asks for and a sandbox thread cannot hold."""
    compiled = draft.compiled
    draft.missing += unheld(compiled.limits, draft.isolation)
    if compiled.switches and (draft.isolation == "thread" or not draft.usable("namespaces")):
        names = ", ".join(compiled.switches)
        raise EnforcementError(
            f"policy {compiled.name!r}: {names}: nothing would keep it to the sandbox's own processes",
            missing="namespaces",
            hint="use isolation='process' where namespaces can be made (`pyisolate doctor`), or take the grant away",
        )
    if draft.isolation == "process":
        draft.partial = uncounted(compiled)
        draft.missing += draft.partial.values()
    if draft.isolation == "thread" and compiled.mode_of("random") is Mode.ENFORCE:
        shared = "a sandbox thread shares the generator of module `random` with the host"
        if compiled.random_seed is not None:
            draft.missing.append(f"random.seed: {compiled.random_seed}: {shared}")
        elif not compiled.allow_random:
            draft.missing.append(f"random: {{allow: false}}: {shared}; system calls for random bytes are refused")


def _check_as_root(draft: Draft) -> None:
    """Note what a supervisor that is root cannot do for cells that are not."""
    if draft.root_view is None and (closed := draft.hidden_interpreter):
        draft.missing.append(f"no import: without a root view, {closed} hides the interpreter from the cell's user")
    if _connects_to_unix(draft.compiled):
        draft.missing.append(
            "rule net: unix: the peer would see root, the supervisor: neither Landlock nor the listener "
            "can make the guest connect as itself"
        )


def _connects_to_unix(compiled: CompiledPolicy) -> bool:
    return compiled.mode_of("net") is Mode.ENFORCE and any(rule.unix_path and rule.allow for rule in compiled.net)
