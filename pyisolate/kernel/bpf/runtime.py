"""What the BPF enforcers of one supervisor share: the maps' state, the records, the question to the tables."""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import select
import threading

import msgspec

from ...capability import CAPABILITY_BY_NUMBER, Capability
from ...choices import EnforcerName
from ...decision import Verdict
from ...enforcement import Availability
from ...errors import EnforcementError
from ...native import libbpf
from ...native.polling import epoll
from ...native.threads import Thread
from ...policy.compiled import CompiledPolicy
from ...records import KernelRecord
from ..enforcer import RecordSink
from ..reconcile import CounterKey
from ..reconcile import record as unnamed_record
from . import syscalls as bpf_syscalls
from .loader import BpfLoader, explain
from .maps import BpfPolicy, Count, Entry, Flow, PolicySlots, SandboxEntries
from .query import ask
from .records import CODES, SHADOW, VERDICTS, RawRecord, kernel_record, parse

_log = logging.getLogger("pyisolate.kernel.bpf")

#: More records than the ring buffer holds at a time (4 MiB; bpf/maps.bpf.h): who drains does not wait for later ones.
_FULL_RING = 32768
#: The sandbox of a proof: what is refused there is no event, and is kept in `Records.proofs`.
PROBE = "pyisolate probe"
_UNNAMED = "more a second than are sent (Supervisor(kernel_events_per_s=...)), or than the ring buffer held"


def _counted(raw: RawRecord) -> CounterKey:
    shadow = bool(raw.flags & SHADOW)
    return CounterKey(CAPABILITY_BY_NUMBER[raw.capability], VERDICTS[raw.verdict], CODES[raw.code], shadow)


class Records:
    """Turns ring buffer bytes into `KernelRecord`s, in one thread of its own; `drain` empties the buffer at once."""

    def __init__(self, loader: BpfLoader, policies: PolicySlots, entries: SandboxEntries) -> None:
        self._policies, self._entries = policies, entries
        self._sink: RecordSink | None = None
        self._lock = threading.Lock()
        self._ring = libbpf.Ring(loader.map_fd("events"), self._receive)
        self._stop = threading.Event()
        self._thread: Thread | None = None
        self._poll: epoll | None = None
        #: ends the wait of that thread; -1 where none runs
        self._wake = -1
        self.unattributed = 0
        #: what the sandbox of a proof was refused
        self.proofs: collections.deque[KernelRecord] = collections.deque(maxlen=16)

    def start(self, sink: RecordSink) -> None:
        """Deliver to `sink` from now on."""
        self._sink = sink
        self._wake = os.eventfd(0)
        thread = Thread(target=self._run, name="pyisolate-bpf-records")
        thread.start()
        self._thread = thread  # only now: `close` joins it, and one that could not be started cannot be joined

    def _run(self) -> None:
        poll = self._poll = epoll()
        poll.register(self._ring.epoll_fd, select.EPOLLIN)
        with contextlib.closing(poll):
            poll.register(self._wake, select.EPOLLIN)
            while not self._stop.is_set():
                if poll.poll(0.2):
                    self.drain()

    def drain(self) -> int:
        """Hand on every record that is in the buffer now; return how many. What was refused before is then recorded."""
        with self._lock:
            return self._ring.consume(_FULL_RING) if self._sink is not None else 0

    def _receive(self, data: bytes) -> None:
        try:
            raw = parse(data)
            entry = self._entries.at(raw.sandbox, raw.epoch)
            if entry is None or self._sink is None:
                self.unattributed += 1
                return
            record = kernel_record(raw, entry.sandbox_id, self._policies.compiled(raw.deciding_policy))
            if entry.sandbox_id == PROBE:
                self.proofs.append(record)
                return
            entry.reconciler.add(_counted(raw))
            self._sink(record)
        except Exception:  # the ring must go on: one bad record must not hide the next
            _log.exception("bpf records: a record could not be handed on")

    def emit_uncounted(self, sandbox_id: str, pid: int, enforcer: EnforcerName) -> None:
        """Hand on, as counts, the refusals that the programs sent no record of. After `drain`."""
        entry = self._entries.get(sandbox_id)
        if entry is None or self._sink is None:
            return
        flow = self._entries.flow(entry)
        with self._lock:
            named = entry.reconciler
            if not named.dropped_since_last(flow.suppressed + flow.lost):
                return
            counters = {
                CounterKey(one.capability, one.verdict, one.code, one.shadow): count
                for one, count in self._entries.counters_of(entry).items()
            }
            for what, count in named.unreported(counters, flow.suppressed + flow.lost):
                self._sink(unnamed_record(enforcer, sandbox_id, pid, what, count, _UNNAMED))

    def close(self) -> None:
        """Deliver what is left and stop."""
        self._stop.set()
        if self._thread is not None:
            os.eventfd_write(self._wake, 1)
            self._thread.join()
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1
        self.drain()
        with self._lock:
            self._sink = None  # a sandbox that is closed later finds nothing to read
            self._ring.close()

    def abandon(self) -> None:
        """In a forked child of the host: no thread reads here."""
        self._sink = None
        if self._poll is not None:
            self._poll.close()
        if self._wake >= 0:
            os.close(self._wake)
        self._ring.close()


class BpfSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of the maps: sandboxes at a time, bytes of the event buffer (a power of two), records a second of each."""

    sandboxes: int = 2048
    ring_bytes: int = 4 << 20
    events_per_s: int = 1000


#: What a probe needs: little memory, quickly.
PROBE_SETTINGS = BpfSettings(sandboxes=16, ring_bytes=1 << 16)


class BpfShared:
    """The loaded maps of one supervisor, running: the LSM, cgroup and Landlock parts are users of it.

    Made by `start`; the last `close` detaches everything.
    """

    def __init__(self, loader: BpfLoader, events_per_s: int) -> None:
        """Load what all users share; `start` also delivers records and explains failures."""
        self.loader, self.events_per_s = loader, events_per_s
        self.question = loader.load("ask").programs["ask"]
        bpf_syscalls.fill(loader.map_fd("syscalls"))
        self.policies = PolicySlots(loader)
        self.entries = SandboxEntries(loader)
        self.records = Records(loader, self.policies, self.entries)
        self._users = 1

    @classmethod
    def start(cls, sink: RecordSink, settings: BpfSettings | None = None) -> BpfShared:
        """Load, deliver records to `sink`, return the running object with one user. Raises BpfUnavailable."""
        chosen = settings or BpfSettings()
        loader = BpfLoader(sandboxes=chosen.sandboxes, ring_bytes=chosen.ring_bytes)
        try:
            shared = cls(loader, chosen.events_per_s)
        except libbpf.BpfCallError as error:
            loader.close()
            raise explain(error, "bpf") from error
        except BaseException:
            loader.close()
            raise
        try:
            shared.records.start(sink)
        except BaseException:
            shared.close()
            raise
        return shared

    # -- life ---------------------------------------------------------------------------------------------------------

    def hold(self) -> BpfShared:
        """Add a user."""
        self._users += 1
        return self

    def close(self) -> None:
        """Remove a user; the last one's going detaches everything: nothing is left in the kernel."""
        self._users -= 1
        if self._users:
            return
        self.records.close()
        self.loader.close()
        self.entries.close()

    def abandon(self) -> None:
        """In a forked child of the host: close the copies of descriptors."""
        self.records.abandon()
        self.entries.close()
        self.loader.abandon()

    # -- policies -----------------------------------------------------------------------------------------------------

    def prepare(self, policy: CompiledPolicy) -> BpfPolicy:
        """Fill the policy's tables in the kernel. Close the result when its last sandbox is attached."""
        return self.policies.prepare(policy)

    def entry(self, sandbox_id: str, policy: BpfPolicy, shadow: BpfPolicy | None = None) -> Entry:
        """Return the sandbox's entry in the maps, making it where there is none."""
        return self.entries.get(sandbox_id) or self.entries.open(
            sandbox_id, policy, shadow, events_per_s=self.events_per_s
        )

    def update(self, sandbox_id: str, policy: BpfPolicy, shadow: BpfPolicy | None = None) -> None:
        """Put a sandbox under another policy: one store, no moment without a policy or between two."""
        self.entries.update(sandbox_id, policy, shadow)

    def detach(self, sandbox_id: str) -> tuple[dict[Count, int], Flow]:
        """End a sandbox: a task that is still in it may do nothing. Returns its final counters and record flow."""
        self.records.drain()
        return self.entries.close_entry(sandbox_id)

    # -- numbers ------------------------------------------------------------------------------------------------------

    def counters(self, sandbox_id: str) -> dict[Count, int]:
        """Return a sandbox's exact counters, whatever became of its records."""
        entry = self.entries.get(sandbox_id)
        return self.entries.counters_of(entry) if entry is not None else {}

    def flow(self, sandbox_id: str) -> Flow:
        """Return how many of a sandbox's records were delivered, suppressed and lost."""
        entry = self.entries.get(sandbox_id)
        return self.entries.flow(entry) if entry is not None else Flow()

    def ask(self, sandbox_id: str, capability: Capability, target: str) -> Verdict:
        """Return what the sandbox's tables say of an operation, without acting; UNAVAILABLE: they hold no answer."""
        entry = self.entries.get(sandbox_id)
        if entry is None:
            return Verdict.UNAVAILABLE
        return ask(self.question, entry.policy.index, capability, target)

    def slot_page(self, sandbox_id: str) -> tuple[int, int]:
        """Return (descriptor, page number) of a sandbox's broker slots, for `native.audit.set_slot`."""
        entry = self.entries.get(sandbox_id)
        if entry is None:
            raise KeyError(sandbox_id)
        return self.entries.slot_page(entry)


class BpfEnforcer:
    """The base of the enforcers: each attaches programs of its own to what is shared."""

    name: EnforcerName = "bpf"

    def __init__(self, shared: BpfShared | None = None, *, settings: BpfSettings | None = None) -> None:
        self._given, self._settings = shared, settings
        self._shared: BpfShared | None = None

    @property
    def shared(self) -> BpfShared:
        """What runs. Raises EnforcementError before `start` and after `close`."""
        if self._shared is None:
            raise EnforcementError(f"{self.name}: it is not started")
        return self._shared

    @property
    def loader(self) -> BpfLoader:
        """The loader of what runs."""
        return self.shared.loader

    def start(self, sink: RecordSink) -> None:
        """Load, attach, deliver records to `sink` (where several share: to the first). Raises BpfUnavailable."""
        self._check()
        self._shared = self._given.hold() if self._given is not None else BpfShared.start(sink, self._settings)
        try:
            self._attach()
        except BaseException:
            self._release()
            raise

    def _release(self) -> None:
        shared, self._shared = self._shared, None
        if shared is not None:
            shared.close()

    def probe(self) -> Availability:
        """See the programs refuse something, live."""
        raise NotImplementedError

    def _check(self) -> None:
        """Raise BpfUnavailable where nothing needs to be made ready to know that it cannot work."""

    def _attach(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Detach; with the last enforcer, nothing is left in the kernel."""
        self._release()

    def prepare(self, policy: CompiledPolicy) -> BpfPolicy:
        """Fill the policy's tables in the kernel. Close the result when its last sandbox is attached."""
        return self.shared.prepare(policy)

    def update(self, sandbox_id: str, policy: BpfPolicy, shadow: BpfPolicy | None = None) -> None:
        """Put a sandbox under another policy at once."""
        self.shared.update(sandbox_id, policy, shadow)

    def detach(self, sandbox_id: str) -> tuple[dict[Count, int], Flow]:
        """End a sandbox; see `BpfShared.detach`."""
        return self.shared.detach(sandbox_id)
