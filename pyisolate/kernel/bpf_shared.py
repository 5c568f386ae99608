"""What the BPF enforcers of one supervisor share: the maps' state, the records, the question to the tables."""

from __future__ import annotations

import contextlib
import logging
import select
import threading

from ..capability import CAPABILITY_BY_NUMBER, Capability
from ..decision import Verdict
from ..native import libbpf
from ..policy.compiled import CompiledPolicy
from . import bpf_syscalls
from .bpf_ask import ask
from .bpf_loader import BpfLoader, explain
from .bpf_records import CODES, OBSERVED, SHADOW, VERDICTS, RawRecord, kernel_record, parse
from .bpf_state import BpfPolicy, Count, Entry, Flow, PolicySlots, SandboxEntries
from .enforcer import RecordSink
from .unnamed import Counted, Named
from .unnamed import record as unnamed_record

_log = logging.getLogger("pyisolate.kernel.bpf")

#: More records than the ring buffer holds at a time (4 MiB; bpf/maps.bpf.h): who drains does not wait for later ones.
_FULL_RING = 32768
_UNNAMED = "more a second than are sent (Supervisor(kernel_events_per_s=...)), or than the ring buffer held"


def _counted(raw: RawRecord) -> Counted:
    shadow = bool(raw.flags & SHADOW)
    return Counted(CAPABILITY_BY_NUMBER[raw.capability], VERDICTS[raw.verdict], CODES[raw.code], shadow)


class Records:
    """Turns ring buffer bytes into `KernelRecord`s, in one thread of its own; `drain` empties the buffer at once."""

    def __init__(self, loader: BpfLoader, policies: PolicySlots, entries: SandboxEntries) -> None:
        self._policies, self._entries = policies, entries
        self._sink: RecordSink | None = None
        self._lock = threading.Lock()
        self._ring = libbpf.Ring(loader.map_fd("events"), self._receive)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._poll: select.epoll | None = None
        self.unattributed = 0
        self._named: dict[str, Named] = {}

    def start(self, sink: RecordSink) -> None:
        """Deliver to `sink` from now on."""
        self._sink = sink
        self._thread = threading.Thread(target=self._run, name="pyisolate-bpf-records", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        poll = self._poll = select.epoll()
        poll.register(self._ring.epoll_fd, select.EPOLLIN)
        with contextlib.closing(poll):
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
            if raw.hook < OBSERVED:
                self._named.setdefault(entry.sandbox_id, Named()).add(_counted(raw))
            policy = self._policies.compiled(raw.deciding_policy)
            self._sink(kernel_record(raw, entry.sandbox_id, policy))
        except Exception:  # the ring must go on: one bad record must not hide the next
            _log.exception("bpf records: a record could not be handed on")

    def tell_unnamed(self, sandbox_id: str, pid: int, enforcer: str) -> None:
        """Hand on, as counts, the refusals that the programs sent no record of. After `drain`."""
        entry = self._entries.get(sandbox_id)
        if entry is None or self._sink is None:
            return
        flow = self._entries.flow(entry)
        with self._lock:
            named = self._named.setdefault(sandbox_id, Named())
            if not named.behind(flow.suppressed + flow.lost):
                return
            counters = {
                Counted(one.capability, one.verdict, one.code, one.shadow): count
                for one, count in self._entries.counters_of(entry).items()
                if not one.observed  # whoever refused it tells of it
            }
            for what, count in named.missing(counters, flow.suppressed + flow.lost):
                self._sink(unnamed_record(enforcer, sandbox_id, pid, what, count, _UNNAMED))

    def forget(self, sandbox_id: str) -> None:
        """A sandbox is gone."""
        with self._lock:
            self._named.pop(sandbox_id, None)

    def close(self) -> None:
        """Deliver what is left and stop."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.drain()
        self._ring.close()

    def abandon(self) -> None:
        """In a forked child of the host: no thread reads here."""
        self._sink = None
        if self._poll is not None:
            self._poll.close()
        self._ring.close()


class BpfShared:
    """Loaded once per supervisor; the LSM, cgroup, observer and Landlock parts are added to it as they are wanted."""

    def __init__(self, loader: BpfLoader | None = None, *, events_per_s: int = 1000) -> None:
        self.loader = loader or BpfLoader()
        self.events_per_s = events_per_s
        self.policies: PolicySlots = None  # type: ignore[assignment]  # set by start
        self.entries: SandboxEntries = None  # type: ignore[assignment]
        self.records: Records = None  # type: ignore[assignment]
        self._ask: libbpf.Program | None = None
        self._users = 0

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self, sink: RecordSink) -> None:
        """Load what all share and deliver records to `sink`; later calls only count users. Raises BpfUnavailable."""
        self._users += 1
        if self._users > 1:
            return
        try:
            self._ask = self.loader.load("ask").programs["ask"]
            bpf_syscalls.fill(self.loader.map_fd("syscalls"))
            self.policies = PolicySlots(self.loader)
            self.entries = SandboxEntries(self.loader)
            self.records = Records(self.loader, self.policies, self.entries)
        except libbpf.BpfCallError as error:
            self._users = 0
            self.loader.close()
            raise explain(error, "bpf") from error
        except BaseException:
            self._users = 0
            self.loader.close()
            raise
        self.records.start(sink)

    def close(self) -> None:
        """With the last user, detach everything; nothing is left in the kernel."""
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
        """End a sandbox: whoever is still in it may do nothing. Returns its final counters and record flow."""
        self.records.drain()
        self.records.forget(sandbox_id)
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
        if entry is None or self._ask is None:
            return Verdict.UNAVAILABLE
        return ask(self._ask, entry.policy.index, capability, target)

    def slot_page(self, sandbox_id: str) -> tuple[int, int]:
        """Return (descriptor, page number) of a sandbox's broker slots, for `native.audit.set_slot`."""
        entry = self.entries.get(sandbox_id)
        if entry is None:
            raise KeyError(sandbox_id)
        return self.entries.slot_page(entry)


class BpfEnforcer:
    """The base of the enforcers: each attaches programs of its own to what is shared."""

    name = "bpf"

    def __init__(self, shared: BpfShared | None = None, *, events_per_s: int = 1000) -> None:
        self.shared = shared or BpfShared(events_per_s=events_per_s)
        self.loader = self.shared.loader

    def start(self, sink: RecordSink) -> None:
        """Load, attach, deliver records to `sink` (where several share: to the first). Raises BpfUnavailable."""
        self.shared.start(sink)
        try:
            self._attach()
        except BaseException:
            self.shared.close()
            raise

    def _attach(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Detach; with the last enforcer, nothing is left in the kernel."""
        self.shared.close()

    def prepare(self, policy: CompiledPolicy) -> BpfPolicy:
        """Fill the policy's tables in the kernel. Close the result when its last sandbox is attached."""
        return self.shared.prepare(policy)

    def update(self, sandbox_id: str, policy: BpfPolicy, shadow: BpfPolicy | None = None) -> None:
        """Put a sandbox under another policy at once."""
        self.shared.update(sandbox_id, policy, shadow)

    def detach(self, sandbox_id: str) -> tuple[dict[Count, int], Flow]:
        """End a sandbox; see `BpfShared.detach`."""
        return self.shared.detach(sandbox_id)
