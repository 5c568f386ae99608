"""The Protocol that every enforcer keeps.

An enforcer is one kernel mechanism (glossary). It has a `probe`, proven live; it says which capabilities it decides;
it adds its table to a policy once in the supervisor (`add_to`), and is opened for a sandbox at hand-out (`Attachment`).
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ..capability import Capability
from ..choices import EnforcerName, Origin
from ..enforcement import Availability
from ..records import Asked, BrokerRecord, CallStage, KernelRecord
from .reconcile import CounterKey

if TYPE_CHECKING:
    from .prepared import Draft, Prepared


RecordSink = Callable[[KernelRecord], None]
#: Takes the sandbox's id and a question of one of its calls, which waits; must not wait itself.
AskedSink = Callable[[str, Asked], object]


class Attachment:
    """One sandbox at one enforcer. An enforcer overrides what concerns it; here everything is a no-op."""

    #: (descriptor, page number) of the sandbox's broker slots, where programs read them
    slots: tuple[int, int] | None = None
    #: True where a listener answers its calls
    listens = False

    @property
    def led_as(self) -> tuple[int, int]:
        """By what its connections to the egress proxy are known: the listener's number, a control group; 0: neither."""
        return 0, 0

    def bind_cell(self, pid: int, own: int | None, *, shared: bool = False) -> None:
        """Decide the calls of a warm cell by its policy from here on. Raises EnforcementError.

        `own`: a descriptor of its workspace, where it has one that is its alone; `shared`: a directory of the host's is
        mounted in that.
        """

    def attach_thread(self, descriptor: int) -> None:
        """Decide the calls of a sandbox thread, whose filter's listener `descriptor` is. Takes the descriptor."""

    def attach_task(self, tid: int, slot: int | None) -> bool:
        """Put a cell or a thread under programs, before any guest code; tell whether they decide there."""
        return False

    def attach_group(self, cgroup: Path) -> None:
        """Put a control group under programs, before any guest code."""

    def release_group(self) -> None:
        """No process is left in the sandbox's control group: another sandbox may get it."""

    def rebind(self, prepared: Prepared) -> None:
        """Decide by other tables, each swapped whole; records of earlier refusals reach the sink before."""

    def announce(self) -> int:
        """Say to the guest that its policy was reloaded; return how often it was, 0 where that cannot be said."""
        return 0

    def quiet(self, pid: int) -> bool:
        """True where `drain` and `emit_uncounted` have nothing to do: as after nearly every request."""
        return True

    def answer(self, number: int, *, allow: bool | None) -> None:
        """Answer a question of one of its calls, if it has asked one."""

    def give(self, number: int, file: int, *, empty: bool) -> bool:
        """Answer a question of its own with a file; tell whether the guest has it. Takes `file`."""
        os.close(file)
        return False

    def begin(self, number: int) -> bool:
        """Begin to carry out a call that a question of its own was about; tell whether it still waits."""
        return False

    def done(self, number: int, error: int) -> None:
        """Answer a call of its own that was carried out: its error number, or 0."""

    def stage(self, call: int) -> CallStage:
        """Tell where a call of it is that a question was about. Never waits."""
        return "gone"

    def drain(self) -> None:
        """Return once every record up to now has reached the sink."""

    def note_recorded(self, record: KernelRecord, *, named: bool) -> None:
        """Another enforcer recorded a refusal that this one may have counted; not `named`: it is no event by itself."""

    def emit_uncounted(self, pid: int) -> None:
        """Send, as one record per counter, the refusals that were counted and not recorded. After `drain`."""

    def spent_s(self) -> float:
        """Return the processor time that deciding and recording for the sandbox took of this process (seconds)."""
        return 0.0

    def take_refusals(self) -> list[tuple[CounterKey, int]]:
        """Return, once, how often an ended guest's broker had refused."""
        return []

    def landlock_layers(self, pid: int) -> int | None:
        """Return how many Landlock rulesets the kernel says confine a task; None where it does not say."""
        return None

    def evaluate(self, record: BrokerRecord) -> KernelRecord | None:
        """Return what the kernel's tables say of an operation that the broker refused; None: they hold no answer."""
        return None

    def close(self) -> None:
        """Forget the sandbox, after its last records."""


@runtime_checkable
class Enforcer(Protocol):
    """One kernel mechanism, on the supervisor's side. Methods with a body are what most enforcers need.

    To add one: a module with such a class, and its instance in `KernelPlan.enforcers`, whose order is that of `add_to`.
    """

    name: EnforcerName

    @abstractmethod
    def probe(self) -> Availability:
        """Apply, see a denial, and say so; never infer from "the call returned 0"."""
        ...

    @abstractmethod
    def capabilities(self) -> frozenset[Capability]:
        """Return what this enforcer decides when it is usable."""
        ...

    def start(self) -> tuple[Availability, ...]:
        """Prove it, begin to work, and return what was found."""
        return (self.probe(),)

    def add_to(self, draft: Draft) -> None:
        """Add the policy's table to `draft`, or what is missing without it. Raises EnforcementError."""
        return None

    def open(self, sandbox_id: str, prepared: Prepared, *, host_network: bool) -> Attachment | None:
        """Make room for a sandbox; None where this enforcer has nothing of its own for each."""
        return None

    def running(self) -> frozenset[str]:
        """Return the names of what works in this supervisor, for reports."""
        return frozenset()

    def recorded(self, isolation: Origin) -> frozenset[Capability]:
        """Return the capabilities of which this enforcer records by itself what it refuses or lets through."""
        return frozenset()

    def watched(self, isolation: Origin) -> frozenset[Capability]:
        """Return the capabilities of which this enforcer records only what it lets through (monitor mode)."""
        return frozenset()

    def close(self) -> None:
        """Stop; nothing is left in the kernel."""
        return None

    def abandon(self) -> None:
        """In a forked child of the host: close the copies, forget what belongs to the parent."""
        return None
