"""What a policy becomes in this kernel: drafted by the enforcers one after the other, then frozen and shared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from ..capability import Capability
from ..choices import EnforcerName, Isolation
from ..limits import rlimit
from ..policy.compile import with_gates
from ..policy.compiled import CompiledPolicy
from .interpreter_access import interpreter_out_of_reach

if TYPE_CHECKING:
    from ..enforcement import Availability
    from .bpf.maps import BpfPolicy
    from .identity import Identity
    from .rootview.tree import RootView, Staged
    from .ruleset import LandlockRuleset


class CellTraits(msgspec.Struct, frozen=True):
    """Whom cells run as and what the supervisor may do."""

    uid: int
    gid: int
    started_by_root: bool
    full_telemetry: bool = False
    #: records a second that one sandbox's BPF programs send; all are counted
    kernel_events_per_s: int = 1000
    #: the zygote's own user, and (first, count) of the users outside of whom each cell is one; None: as `uid`
    zygote_uid: int | None = None
    uid_range: tuple[int, int] | None = None
    #: the egress proxy's own user; None: as `uid`
    proxy_uid: int | None = None
    #: places of the interpreter that cells run, which their user has to reach; empty: those of this process's own
    interpreter: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Prepared:
    """One policy with its kernel tables, shared by all of its sandboxes."""

    compiled: CompiledPolicy
    ruleset: LandlockRuleset | None = None
    root_view: RootView | None = None
    bpf: BpfPolicy | None = None
    missing: tuple[str, ...] = ()
    #: limits that hold in part: what is missing of each, in the words of `missing`
    partial: Mapping[Capability, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    #: BPF-LSM decides files here
    programs_decide: bool = False
    #: its sandboxes use the host's network themselves, under the programs of their control groups
    host_network: bool = False
    #: a policy that refuses nothing: what it would refuse is recorded
    shadow: CompiledPolicy | None = None
    shadow_bpf: BpfPolicy | None = None
    #: what the places of its rules were; None where no table holds places
    identity: Identity | None = None
    #: this process's own limits that the tables hold
    host_limits: tuple[int, ...] = field(default_factory=rlimit.hard_limits_in_tables)

    @property
    def current(self) -> bool:
        """True while the tables mean what the policy's paths name, within the limits that the host has."""
        if self.host_limits != rlimit.hard_limits_in_tables():
            return False
        if self.root_view is not None and not self.root_view.lives:
            return False
        return self.identity is None or self.identity.holds()

    @property
    def left_out(self) -> frozenset[str]:
        """Granted paths that were not there when the tables were made, which hold none of them."""
        return frozenset() if self.identity is None else self.identity.left_out

    def stage(self, directory: int | None = None) -> Staged | None:
        """Return a view for one sandbox alone, with workspace or gates, or None. Raises EnforcementError.

        `directory`: a mount of the host's that is to be the workspace.
        """
        return self.root_view.stage(directory) if self.root_view is not None and self.root_view.stages else None

    @property
    def unshadowed(self) -> CompiledPolicy | None:
        """The policy, where it alone says what a sandbox may do: its cells may come from its own zygote."""
        return self.compiled if self.shadow is None else None

    @property
    def forks(self) -> bool:
        """True when a sandbox of this policy, and of its shadow, may fork: its cell then does so without asking."""
        return self.compiled.allow_fork and (self.shadow is None or self.shadow.allow_fork)

    def descriptors(self) -> dict[str, int]:
        """Return the descriptors that a cell needs, by name, in the order it uses them."""
        named: dict[str, int] = {}
        if self.root_view is not None:
            named["root view"] = self.root_view.fd
        if self.ruleset is not None:
            named["landlock"] = self.ruleset.fd
        return named

    def abandon(self) -> None:
        """In a forked child of the host: close the copies of descriptors; the BPF tables are the parent's."""
        for table in (self.ruleset, self.root_view):
            if table is not None:
                table.close()

    def close(self) -> None:
        """Close the tables; sandboxes that use them keep their own references in the kernel."""
        self.abandon()
        if self.bpf is not None:
            self.bpf.close()


@dataclass
class Draft:
    """A policy while its tables are made. Each enforcer adds its own, or says what is missing without it."""

    compiled: CompiledPolicy
    isolation: Isolation
    strict: bool
    availability: Mapping[str, Availability]
    traits: CellTraits
    #: `compiled`, and programs that wait at gates: what holds files is made of it
    held: CompiledPolicy = field(init=False)
    #: taken before anything was made of the places
    identity: Identity | None = None
    ruleset: LandlockRuleset | None = None
    root_view: RootView | None = None
    bpf: BpfPolicy | None = None
    programs_decide: bool = False
    host_network: bool = False
    missing: list[str] = field(default_factory=list)
    partial: dict[Capability, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.held = with_gates(self.compiled)

    def usable(self, enforcer: EnforcerName) -> bool:
        """True when the enforcer's probe saw it deny."""
        found = self.availability.get(enforcer)
        return found is not None and found.usable

    @property
    def hidden_interpreter(self) -> str | None:
        """The directory on the way to the interpreter that the cell's user may not search, if there is one."""
        if self.isolation != "process" or not self.traits.started_by_root:
            return None
        return interpreter_out_of_reach(self.traits.uid, self.traits.gid, self.traits.interpreter)

    def lack(self, enforcer: EnforcerName, what: str) -> None:
        """Note that `what` is not enforced, because `enforcer` is not available."""
        found = self.availability.get(enforcer)
        state = "not probed ()" if found is None else f"{found.status.value} ({found.reason})"
        self.missing.append(f"{what}: {enforcer} is {state}")

    def finish(self) -> Prepared:
        """Return what was made."""
        return Prepared(
            compiled=self.compiled,
            ruleset=self.ruleset,
            root_view=self.root_view,
            bpf=self.bpf,
            missing=tuple(self.missing),
            partial=self.partial,
            notes=tuple(self.notes),
            programs_decide=self.programs_decide,
            host_network=self.host_network,
            identity=self.identity if self.ruleset is not None or self.root_view is not None else None,
        )
