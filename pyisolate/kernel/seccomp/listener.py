"""seccomp user notification: the supervisor decides the calls that the filter does not allow outright.

The filter (`kernel/seccomp/filter.py`) sends them to the listener, a C thread (`native/src/notify.c`): it judges
by values and by its own copy of an address, acts on its own descriptor of the guest's socket, and answers. What the
guest could still change is never looked at twice. If the listener dies, the kernel fails every such call: closed.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import threading
import time
from collections import OrderedDict

import msgspec

from ...capability import CAPABILITY_BY_NUMBER, Capability
from ...choices import CellKind
from ...decision import Verdict
from ...native import notify as native
from ...native.account import Account
from ...native.audit import own_asked
from ...native.threads import Thread
from ...policy.compiled import CompiledPolicy
from ...records import CallStage, KernelRecord
from ..enforcer import AskedSink, RecordSink
from ..reconcile import LOOK_UP, CounterKey, Reconciler
from ..reconcile import record as unnamed_record
from .questions import Questions
from .records import ENFORCER, SILENT_VERDICTS, VERDICTS, evaluate, kernel_record
from .table import call_tables
from .tables import Tables

_log = logging.getLogger("pyisolate.kernel")

#: A flood of refusals costs the host a wake-up a millisecond, not one each; requests that end drain by themselves.
_PACE_S = 0.001
_PACE_MAX_S = 0.02
#: How long records are read before other threads of the host have their turn: they wait for the interpreter's lock.
_TURN_S = 0.001
#: How many records of one sandbox are read before the next one's.
_BATCH = 4
#: After each batch who waits for the interpreter's lock has it (seconds).
_YIELD_S = 0.00002
#: How long a spawn waits for the listener's thread.
_PATIENCE_S = native.PATIENCE_S
_UNNAMED = "they came faster than the listener's records were read, or memory was short"


def _counted(capability: int, verdict: int) -> CounterKey:
    return CounterKey(CAPABILITY_BY_NUMBER[capability], VERDICTS[verdict])


class _Attached(msgspec.Struct):
    """A sandbox at the listener. `policies` keeps the tables that records under way may still speak of."""

    key: int
    sandbox_id: str
    kind: CellKind = "cell"
    full: bool = False
    shadow: CompiledPolicy | None = None
    policies: OrderedDict[int, CompiledPolicy] = msgspec.field(default_factory=OrderedDict)
    #: serial and policy of the shadow's table
    watched: tuple[int, CompiledPolicy] | None = None
    named: Reconciler = msgspec.field(default_factory=Reconciler)
    #: what the guest had not reported at its end was asked for
    refusals_taken: bool = False
    #: look-ups without a record that were handed over, as a count
    unlooked: int = 0
    #: calls of records that were taken from the ring and for which there was no memory
    unread: int = 0
    #: processor time that its records took here
    read_s: float = 0.0
    #: one drain of it at a time; held while its records are handed to the sink
    draining: threading.RLock = msgspec.field(default_factory=threading.RLock)


class Listener:
    """Serves the notifications of all sandboxes of a supervisor, and turns refusals into kernel records.

    `sink` is called with every record, in order per sandbox, from the drain thread or from `drain_now`, for several
    sandboxes at a time; what it raises is logged and dropped. Thread-safe.
    """

    def __init__(self, sink: RecordSink, on_asked: AskedSink | None = None) -> None:
        self._sink = sink
        self._native = native.Listener(*call_tables(), patience_s=_PATIENCE_S)
        #: those of its calls that wait for an answer
        self.questions = Questions(self._native, self._sandbox_of, on_asked)
        self._keys, self._tables = itertools.count(1), Tables()
        self._lock = threading.Lock()  # names and tables
        self._by_id: dict[str, _Attached] = {}
        self._by_key: dict[int, _Attached] = {}
        self._closing, self._closed = threading.Event(), False
        self._thread = Thread(target=self._drain, name="pyisolate-notify")
        self._pid = os.getpid()

    def start(self) -> None:
        """Start deciding and draining."""
        self._native.start()
        self._thread.start()

    @property
    def alive(self) -> bool:
        """True while the listener decides in this process."""
        return self._native.alive

    def close(self) -> None:
        """Hand over what is recorded and stop. Cells that are left get ENOSYS for what the filter does not allow."""
        if self._closing.is_set() or os.getpid() != self._pid:
            return
        self._closing.set()
        self._native.wake()
        self.questions.close()
        if self._thread.is_alive():
            self._thread.join()
        self._native.halt()  # before the last drain: who floods would never let it end
        with contextlib.ExitStack() as held:
            for attached in list(self._by_key.values()):
                held.enter_context(attached.draining)
                self._drain_all(attached)
            self._closed = True
            self._native.close()

    # -- sandboxes ------------------------------------------------------------------------------------------

    def attach(
        self,
        fd: int,
        sandbox_id: str,
        policy: CompiledPolicy,
        *,
        full: bool = False,
        kind: CellKind = "cell",
        shadow: CompiledPolicy | None = None,
    ) -> None:
        """Decide a sandbox's calls by `policy`. Takes the descriptor. `full` also records allowed file calls.

        `shadow` refuses nothing: what it would refuse is recorded, beside what `policy` does.
        """
        self._add(fd, sandbox_id, policy, full, kind, shadow)
        if kind == "thread":
            self._lend_asked(sandbox_id)

    def attach_warm(self, fd: int, sandbox_id: str, asked: int | None = None, account: Account | None = None) -> None:
        """Let everything a warm cell does continue, until `bind`: no guest code may run in it before.

        `asked` is the descriptor of its asked page; without one nothing tells whether its broker was asked.
        `account` is charged for what its calls cost.
        """
        self._add(fd, sandbox_id, None, False, "cell", None, account)
        with self._lock:
            attached = self._by_id.get(sandbox_id)
            if attached is None or asked is None:
                return
            try:
                self._native.map_asked(attached.key, asked)
            except OSError as error:
                _log.warning("a cell's records cannot tell whether its broker was asked: %s", error)

    def _lend_asked(self, sandbox_id: str) -> None:
        """Join a sandbox thread's calls with what its hooks ask, as far as there is memory for it."""
        with self._lock:
            attached = self._by_id.get(sandbox_id)
            if attached is None or not (page := own_asked()):
                return
            try:
                self._native.lend_asked(attached.key, page)
            except OSError as error:
                _log.warning("a sandbox thread's records cannot tell whether its broker was asked: %s", error)

    def bind(
        self,
        warm_id: str,
        sandbox_id: str,
        policy: CompiledPolicy,
        *,
        full: bool = False,
        kind: CellKind = "cell",
        shadow: CompiledPolicy | None = None,
        own: int | None = None,
        shared: bool = False,
    ) -> None:
        """Give a warm cell its sandbox and policy. Raises KeyError for a cell that was never attached.

        `shadow` refuses nothing: what it would refuse is recorded, beside what `policy` does. `own`: a descriptor of
        its workspace, which stays the caller's; `shared`: a directory of the host's is mounted in it.
        """
        with self._lock:
            attached = self._by_id[warm_id]
            attached.full, attached.kind, attached.shadow = full, kind, shadow
            table = self._remember(attached, policy)
            self._native.bind(attached.key, table, own, shared=shared)
            del self._by_id[warm_id]
            attached.sandbox_id = sandbox_id
            self._by_id[sandbox_id] = attached

    def update(self, sandbox_id: str, policy: CompiledPolicy) -> None:
        """Decide by `policy` from the next call on; there is no instant without one. Raises KeyError."""
        with self._lock:
            attached = self._by_id[sandbox_id]
            self._native.bind(attached.key, self._remember(attached, policy))

    def lead(self, table: int, port: int) -> None:
        """Write down, in the table of a descriptor, whose connections to a port of 127.0.0.1 are. Raises OSError."""
        self._native.lead(table, port)

    def number_of(self, sandbox_id: str) -> int:
        """Return the number that stands for a sandbox in that table; 0 for an unknown one."""
        return 0 if (attached := self._by_id.get(sandbox_id)) is None else attached.key

    def announce(self, sandbox_id: str) -> int:
        """Say to the guest that its policy was reloaded; return how often it was, 0 where it cannot be said."""
        attached = self._by_id.get(sandbox_id)
        return 0 if attached is None or self._closing.is_set() else self._native.announce(attached.key)

    def detach(self, sandbox_id: str) -> None:
        """Forget a sandbox that has ended, after its last records. Unknown names are ignored."""
        with self._lock:
            attached = self._by_id.get(sandbox_id)
        if attached is None or self._closing.is_set():
            return
        self._native.stop(attached.key)
        self._drain_all(attached)
        self._emit_uncounted(attached, 0)
        with self._lock:
            self._by_id.pop(sandbox_id, None)
            self._by_key.pop(attached.key, None)
        self._native.forget(attached.key)

    def _add(
        self,
        fd: int,
        sandbox_id: str,
        policy: CompiledPolicy | None,
        full: bool,
        kind: CellKind,
        shadow: CompiledPolicy | None,
        account: Account | None = None,
    ) -> None:
        with self._lock:
            if sandbox_id in self._by_id or self._closing.is_set():
                os.close(fd)
                why = "it is closed" if self._closing.is_set() else "the name is taken"
                raise ValueError(f"attach {sandbox_id!r} to the notification listener: {why}")
            attached = _Attached(next(self._keys), sandbox_id, kind, full, shadow)
            table = None if policy is None else self._remember(attached, policy)
            self._by_key[attached.key] = attached
            try:
                self._native.add(attached.key, fd, table, account)
            except OSError:
                del self._by_key[attached.key]
                raise
            self._by_id[sandbox_id] = attached

    def _remember(self, attached: _Attached, policy: CompiledPolicy) -> native.Policy:
        """Return the policy's table; records that are made by it are of that policy."""
        if policy.ask:
            self.questions.start()
        found = self._tables.of(policy, kind=attached.kind, full=attached.full, shadow=attached.shadow)
        attached.watched, table = found.watched, found.table
        attached.policies[table.serial] = policy
        while len(attached.policies) > 4:  # reloads: a record under way is not older than that
            attached.policies.popitem(last=False)
        return table

    # -- questions ------------------------------------------------------------------------------------------

    def stage(self, sandbox_id: str, call: int) -> CallStage:
        """Tell where a call is that a question was about. Any thread may ask; never waits."""
        attached = self._by_id.get(sandbox_id)
        return "gone" if attached is None else self.questions.stage(attached.key, call)

    def _sandbox_of(self, key: int) -> str | None:
        attached = self._by_key.get(key)
        return None if attached is None else attached.sandbox_id

    # -- what would happen ----------------------------------------------------------------------------------

    def evaluate(self, sandbox_id: str, capability: Capability, target: str) -> KernelRecord | None:
        """Return what the sandbox's tables say of an operation that the broker refused before it became a call.

        None where the listener does not decide it: files, imports, unix paths, names instead of addresses.
        """
        with self._lock:
            attached = self._by_id.get(sandbox_id)
            if attached is None or not attached.policies:
                return None
            policy = next(reversed(attached.policies.values()))
            table = self._remember(attached, policy)
        return evaluate(table, policy, sandbox_id, capability, target)

    # -- what happened --------------------------------------------------------------------------------------

    def counters(self, sandbox_id: str) -> dict[tuple[Capability, Verdict], int]:
        """Return exact counts since `attach`, also of what was lost as records. Empty for an unknown sandbox."""
        with self._lock:
            attached = self._by_id.get(sandbox_id)
        if attached is None:
            return {}
        return {(what.capability, what.verdict): count for what, count in self._counters_of(attached).items()}

    def _counters_of(self, attached: _Attached) -> dict[CounterKey, int]:
        found = self._native.counters(attached.key)
        counts = [] if found is None else found[0]
        return {
            _counted(index // native.VERDICTS, index % native.VERDICTS): count
            for index, count in enumerate(counts)
            if count
        }

    def lost(self, sandbox_id: str) -> int:
        """Return how many records the sandbox's ring or this process had no room for: reported as counts."""
        with self._lock:
            attached = self._by_id.get(sandbox_id)
        found = None if attached is None else self._native.counters(attached.key)
        return 0 if found is None or attached is None else found[1] + attached.unread

    def spent_s(self, sandbox_id: str) -> float:
        """Return the processor time that its calls and their records took; 0 for an unknown sandbox."""
        attached = self._by_id.get(sandbox_id)
        if attached is None or self._closing.is_set():
            return 0.0
        return self._native.spent_s(attached.key) + attached.read_s

    def take_refusals(self, sandbox_id: str) -> list[tuple[CounterKey, int]]:
        """Return, once, how often the broker of a guest had refused when it ended, also what it could not report.

        The guest's own word: capabilities that exist, numbers of any size.
        """
        with self._lock:
            attached = self._by_id.get(sandbox_id)
            if attached is None or attached.refusals_taken or self._closing.is_set():
                return []
            attached.refusals_taken = True
            left = self._native.refusals(attached.key)
        verdicts = (Verdict.DENY, Verdict.WOULD_DENY)
        return [
            (CounterKey(CAPABILITY_BY_NUMBER[index // 2], verdicts[index % 2]), count)
            for index, count in enumerate(left)
            if count and index // 2 in CAPABILITY_BY_NUMBER
        ]

    def drain_now(self, sandbox_id: str) -> None:
        """Return once every record of calls that the sandbox has seen answered has been handed to the sink."""
        with self._lock:
            attached = self._by_id.get(sandbox_id)
        if attached is not None and not self._closing.is_set():
            self._drain_all(attached)

    def quiet(self, sandbox_id: str) -> bool:
        """True where `drain_now` and `emit_uncounted` have nothing to do: all records have been handed on."""
        attached = self._by_id.get(sandbox_id)  # one look needs no lock
        if attached is None or self._closing.is_set():
            return True
        with attached.draining:  # its holder may have taken a record that is not delivered yet
            dropped = attached.named.seen - attached.unread
            return self._closed or (dropped >= 0 and self._native.quiet(attached.key, dropped))

    def emit_uncounted(self, sandbox_id: str, pid: int) -> None:
        """Hand over, as counts, the refusals whose records did not fit the ring. After `drain_now`."""
        with self._lock:
            attached = self._by_id.get(sandbox_id)
        if attached is not None and not self._closing.is_set():
            self._emit_uncounted(attached, pid)

    def _emit_uncounted(self, attached: _Attached, pid: int) -> None:
        with attached.draining:
            unlooked = 0 if self._closed else self._native.unlooked(attached.key)
            found = None if self._closed else self._native.counters(attached.key)
            if found is None or not attached.named.dropped_since_last(dropped := found[1] + attached.unread):
                return
            for what, count in attached.named.unreported(self._counters_of(attached), dropped - unlooked):
                self._deliver(unnamed_record(ENFORCER, attached.sandbox_id, pid, what, count, _UNNAMED))
            if count := unlooked - attached.unlooked:
                attached.unlooked = unlooked
                self._deliver(unnamed_record(ENFORCER, attached.sandbox_id, pid, LOOK_UP, count, _UNNAMED))

    def _drain_all(self, attached: _Attached) -> None:
        """Hand over what a sandbox has recorded by now; what comes after this is not waited for."""
        with attached.draining:
            left = 0 if self._closed else self._native.pending(attached.key)
            while left > 0 and (taken := self._drain_batch(attached, left)):
                left -= taken

    def _drain_batch(self, attached: _Attached, most: int) -> int:
        with attached.draining:
            if self._closed:
                return 0
            began = time.thread_time()
            popped = self._native.pop(attached.key, most)
            attached.unread += popped.unread
            for record in popped.records:
                try:
                    self._hand_over(attached, record)
                except MemoryError:
                    attached.unread += record.times
            took = time.thread_time() - began
            attached.read_s += took
            self._native.charge(attached.key, took)
            return popped.taken

    def _hand_over(self, attached: _Attached, record: native.Record) -> None:
        watched = attached.watched
        shadow = watched is not None and record.policy_serial == watched[0]
        policy = watched[1] if watched is not None and shadow else attached.policies.get(record.policy_serial)
        made = kernel_record(record, attached.sandbox_id, policy, shadow=shadow)
        if not shadow:  # the counters are those of the policy in force
            attached.named.add(_counted(record.capability, record.verdict), record.times)
        if made.verdict not in SILENT_VERDICTS or attached.full:
            self._deliver(made)

    def _deliver(self, record: KernelRecord) -> None:
        try:
            self._sink(record)
        except Exception:
            _log.exception("a record sink failed; the refusal stands and is counted")

    def _drain_turn(self, waiting: dict[int, None], until: float) -> None:
        """Hand over a batch of each sandbox that has records, one after the other, until the time is up.

        `waiting` are the keys of those whose turn is to come.
        """
        for _ in range(len(self._by_key)):
            if not (key := self._native.next()):
                break
            waiting.setdefault(key)
        while waiting:
            key = next(iter(waiting))
            del waiting[key]
            attached = self._by_key.get(key)
            if attached is not None and self._drain_batch(attached, _BATCH) == _BATCH:
                waiting[key] = None
            if time.monotonic() >= until:
                return
            if waiting:
                time.sleep(_YIELD_S)

    def _drain(self) -> None:
        waiting: dict[int, None] = {}
        while not self._closing.is_set():
            if waiting or self._native.wait(-1):
                began = time.monotonic()
                try:
                    self._drain_turn(waiting, began + _TURN_S)
                except Exception:  # the next batch must not wait for a restart
                    _log.exception("a batch of records could not be read; they are counted all the same")
                # a guest that is refused all the time gets half a processor of its host, not a whole one
                self._closing.wait(min(max(_PACE_S, time.monotonic() - began), _PACE_MAX_S))
