"""seccomp with a listener as an `Enforcer`, and one sandbox at that listener."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...capability import Capability
from ...choices import CellKind, EnforcerName, Origin
from ...enforcement import Availability, Status
from ...errors import EnforcementError
from ...native.result import cause_of
from ...records import BrokerRecord, CallStage, KernelRecord
from ..enforcer import AskedSink, Attachment, Enforcer, RecordSink
from ..namespaces import outer_filter
from ..reconcile import CounterKey
from .listener import Listener
from .probe import probe_live
from .syscalls import CAPABILITY_OF, REPORTED_WHEN_FULL

if TYPE_CHECKING:
    from ..prepared import Draft, Prepared


class NotificationEnforcer(Enforcer):
    """seccomp with a listener, on the supervisor's side. `Listener` does the work; this proves that it can."""

    name: EnforcerName = "seccomp"

    def __init__(
        self,
        sink: RecordSink | None = None,
        on_asked: AskedSink | None = None,
        *,
        simulate_missing: bool = False,
    ) -> None:
        self._sink, self._on_asked, self._simulate_missing = sink, on_asked, simulate_missing
        self.listener: Listener | None = None

    def probe(self) -> Availability:
        """See, in a child under the filter, a socket refused by the listener and one allowed."""
        if self._simulate_missing:
            return self._unavailable("simulated")
        try:
            proof = probe_live(Listener)
        except OSError as error:
            return self._unavailable(cause_of(error), error.errno)
        if proof.problem:
            return self._unavailable(proof.problem, proof.errno)
        return Availability(enforcer=self.name, status=Status.AVAILABLE, proof=proof.text, detail=proof.detail)

    def capabilities(self) -> frozenset[Capability]:
        """Return what the filter and the listener decide."""
        reported = frozenset(REPORTED_WHEN_FULL.values())
        decided = frozenset(CAPABILITY_OF.values()) - reported
        return decided | {Capability.IPC_UNIX, Capability.KERNEL_SYSCALL}

    def start(self) -> tuple[Availability, ...]:
        """Probe, and start the listener."""
        found = self.probe()
        if found.usable and self._sink is not None:
            self.listener = Listener(self._sink, self._on_asked)
            self.listener.start()
        return (found,)

    def add_to(self, draft: Draft) -> None:
        """The listener compiles a policy's table when its first sandbox is bound; without it nothing is decided."""
        if not draft.usable(self.name):
            draft.lack(self.name, "system calls, network and processes")

    def open(self, sandbox_id: str, prepared: Prepared, *, host_network: bool) -> Attachment | None:
        """Return the sandbox at the listener; it is known there from `bind_cell` or `attach_thread` on."""
        if self.listener is None:
            return None
        return ListenerAttachment(self.listener, sandbox_id, prepared, host_network=host_network)

    def running(self) -> frozenset[str]:
        """Return the listener, while there is one."""
        return frozenset() if self.listener is None else frozenset({self.name})

    def recorded(self, isolation: Origin) -> frozenset[Capability]:
        """Return what the listener decides: it records every refusal."""
        return frozenset() if self.listener is None else self.capabilities()

    def watched(self, isolation: Origin) -> frozenset[Capability]:
        """Return what it sees of files in a cell that monitors: the root view and Landlock, which refuse, are off."""
        if self.listener is None or isolation != "process":
            return frozenset()
        return frozenset(REPORTED_WHEN_FULL.values())

    def close(self) -> None:
        """Stop the listener."""
        listener, self.listener = self.listener, None
        if listener is not None:
            listener.close()

    def abandon(self) -> None:
        """In a forked child of the host: the listener is the parent's."""
        self.listener = None

    def _unavailable(self, reason: str, errno: int | None = None) -> Availability:
        return Availability(
            enforcer=self.name,
            status=Status.UNAVAILABLE,
            reason=reason,
            errno=errno,
            remedy=outer_filter() or "needs CONFIG_SECCOMP_FILTER and Linux 5.9 (notification, ADDFD)",
        )


class ListenerAttachment(Attachment):
    """One sandbox at the listener."""

    listens = True

    def __init__(self, listener: Listener, sandbox_id: str, prepared: Prepared, *, host_network: bool) -> None:
        self._listener, self._id, self._prepared = listener, sandbox_id, prepared
        self._kind: CellKind = "native" if host_network else "cell"

    @property
    def led_as(self) -> tuple[int, int]:
        """The number under which the listener connects for it; 0 where it connects by itself."""
        return (self._listener.number_of(self._id) if self._kind == "cell" else 0), 0

    def bind_cell(self, pid: int, own: int | None, *, shared: bool = False) -> None:
        """Give a warm cell its policy. Raises EnforcementError without a listener, KeyError for a dead cell."""
        require_alive(self._listener)
        self._listener.bind(
            warm_name(pid),
            self._id,
            self._prepared.compiled,
            full=not self._prepared.programs_decide,
            kind=self._kind,
            shadow=self._prepared.shadow,
            own=own,
            shared=shared,
        )

    def attach_thread(self, descriptor: int) -> None:
        """Decide a sandbox thread's calls. Takes the descriptor."""
        compiled, shadow = self._prepared.compiled, self._prepared.shadow
        self._listener.attach(descriptor, self._id, compiled, kind="thread", shadow=shadow)

    def rebind(self, prepared: Prepared) -> None:
        """Decide by another policy from the next call on."""
        self._prepared = prepared
        self._listener.drain_now(self._id)
        self._listener.update(self._id, prepared.compiled)

    def announce(self) -> int:
        """Say to the guest that its policy was reloaded."""
        return self._listener.announce(self._id)

    def quiet(self, pid: int) -> bool:
        """True where the listener has delivered all there is."""
        return self._listener.quiet(self._id)

    def answer(self, number: int, *, allow: bool | None) -> None:
        """Answer a question of one of its calls."""
        self._listener.questions.answer(number, allow=allow)

    def give(self, number: int, file: int, *, empty: bool) -> bool:
        """Answer a question with a file."""
        return self._listener.questions.give(number, file, empty=empty)

    def begin(self, number: int) -> bool:
        """Begin to carry out a call."""
        return self._listener.questions.begin(number)

    def done(self, number: int, error: int) -> None:
        """Answer a call that was carried out."""
        self._listener.questions.done(number, error)

    def stage(self, call: int) -> CallStage:
        """Tell where a call of it is that a question was about."""
        return self._listener.stage(self._id, call)

    def drain(self) -> None:
        """Return once every record of calls that the sandbox has seen answered has been handed to the sink."""
        self._listener.drain_now(self._id)

    def emit_uncounted(self, pid: int) -> None:
        """Send, as counts, the refusals whose records did not fit the ring."""
        self._listener.emit_uncounted(self._id, pid)

    def spent_s(self) -> float:
        """Return the processor time that its calls and their records took of this process."""
        return self._listener.spent_s(self._id)

    def take_refusals(self) -> list[tuple[CounterKey, int]]:
        """Return, once, how often an ended guest's broker had refused; see `Listener`."""
        return self._listener.take_refusals(self._id)

    def evaluate(self, record: BrokerRecord) -> KernelRecord | None:
        """Return what the sandbox's table at the listener says of an operation."""
        return self._listener.evaluate(self._id, record.capability, record.target)

    def close(self) -> None:
        """Forget the sandbox, after its last records."""
        self._listener.detach(self._id)


def warm_name(pid: int) -> str:
    """Return the name under which a cell is at the listener before it has a sandbox."""
    return f"cell:{pid}"


def require_alive(listener: Listener) -> None:
    """Raise EnforcementError when the listener that cells wait for has ended: the kernel fails their calls."""
    if not listener.alive:
        raise EnforcementError(
            "decide system calls: the notification listener has ended",
            missing="seccomp",
            hint="close this supervisor and start another",
        )
