"""What the supervisor keeps in the maps: policies by index, sandboxes by entry, counters.

A policy is filled under a fresh index, then published, then pointed at by one 64-bit store in a sandbox's entry: no
moment shows half a policy. An index is reused after a grace period, when no running program can still hold it.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import struct
import threading

import msgspec

from ...capability import CAPABILITY_BY_NUMBER, Capability
from ...decision import DenialCode, Verdict
from ...errors import EnforcementError
from ...native import bpf_maps, libbpf
from ...native.bpf_maps import CounterPart
from ...policy.compiled import CompiledPolicy
from ..reconcile import Reconciler
from .loader import BpfLoader
from .records import CODES, VERDICTS
from .tables import PolicyTables, Table, compile_tables

_POLICIES = 4096  # PYI_POLICIES, bpf/maps.bpf.h
_U32 = struct.Struct("=I")
_READY_OFF = bytes(24)
_PIDFD_THREAD = os.O_EXCL
_KIND_SHADOW = 1  # enum pyi_counter_kind
#: Every counter that the programs can make; they count denials alone.
_COUNTED = tuple(CounterPart(*numbers) for numbers in itertools.product(CAPABILITY_BY_NUMBER, (1, 2), CODES, range(4)))


class BpfPolicy:
    """One policy in the kernel, shared by its sandboxes. Closing it frees the index once no sandbox uses it."""

    def __init__(self, index: int, compiled: CompiledPolicy, slots: PolicySlots) -> None:
        self.index, self.compiled = index, compiled
        self._slots = slots
        self._users = 1

    def hold(self) -> BpfPolicy:
        """Add a user."""
        with self._slots.lock:
            self._users += 1
        return self

    def close(self) -> None:
        """Remove a user; the last one's going retires the index."""
        with self._slots.lock:
            self._users -= 1
            if self._users == 0:
                self._slots.retire(self.index)


class PolicySlots:
    """The indices of `policies`, `paths` and `nets`."""

    def __init__(self, loader: BpfLoader, *, capacity: int = _POLICIES) -> None:
        self._loader = loader
        self.lock = threading.RLock()
        self._free = list(range(min(capacity, _POLICIES) - 1, 0, -1))
        self._retired: list[int] = []
        self._live: dict[int, CompiledPolicy] = {}

    def prepare(self, policy: CompiledPolicy) -> BpfPolicy:
        """Fill a policy's tables and publish them under a fresh index."""
        tables = compile_tables(policy)
        with self.lock:
            index = self._take()
            try:
                self._publish(index, tables)
            except libbpf.BpfCallError:
                self.retire(index)
                raise
            self._live[index] = policy
        return BpfPolicy(index, policy, self)

    def _publish(self, index: int, tables: PolicyTables) -> None:
        key = _U32.pack(index)
        for outer, table in (("paths", tables.paths), ("nets", tables.nets)):
            inner = _filled(outer, table)
            try:
                libbpf.update(self._loader.map_fd(outer), key, _U32.pack(inner))
            finally:
                os.close(inner)
        libbpf.update(self._loader.map_fd("policies"), key, tables.scalars)

    def _take(self) -> int:
        if not self._free:
            self._reclaim()
        if not self._free:
            raise EnforcementError(
                "bpf, prepare: every index of the policy table is in use", hint="share policies, close sandboxes"
            )
        return self._free.pop()

    def retire(self, index: int) -> None:
        """Give up an index; it is reused after a grace period."""
        self._retired.append(index)
        if len(self._retired) >= 256:
            self._reclaim()

    def _reclaim(self) -> None:
        """Free retired indices: first no program can look them up any more, then none is still reading."""
        retired, self._retired = self._retired, []
        if not retired:
            return
        for index in retired:
            libbpf.update(self._loader.map_fd("policies"), _U32.pack(index), _READY_OFF)
        libbpf.grace_period()
        for index in retired:  # their tables go when the index is used again: each change there waits for RCU (ms)
            self._live.pop(index, None)
            self._free.append(index)

    def compiled(self, index: int) -> CompiledPolicy | None:
        """Return the policy at an index."""
        return self._live.get(index)


def _filled(name: str, table: Table) -> libbpf.MapFd:
    fd = libbpf.create_trie(f"pyi_{name}", table.key_bytes, table.value_bytes, table.entries)
    try:
        libbpf.fill(fd, table.keys, table.key_bytes, table.values, table.value_bytes)
    except libbpf.BpfCallError:
        os.close(fd)
        raise
    return fd


class Count(msgspec.Struct, frozen=True):
    """What one exact counter counts."""

    capability: Capability
    code: DenialCode
    verdict: Verdict
    shadow: bool = False


class Flow(msgspec.Struct, frozen=True):
    """What became of one sandbox's records: their sum is the sum of its counters."""

    delivered: int = 0
    suppressed: int = 0
    lost: int = 0


class Entry:
    """One sandbox in the maps."""

    def __init__(self, index: int, epoch: int, sandbox_id: str, policy: BpfPolicy, shadow: BpfPolicy | None) -> None:
        self.index, self.epoch, self.sandbox_id = index, epoch, sandbox_id
        self.policy, self.shadow = policy, shadow
        #: control groups that are in it
        self.groups: set[int] = set()
        self.reconciler = Reconciler()
        #: indices of every policy that it was ever under: its counters are kept by policy
        self.judged_by = {policy.index} | ({shadow.index} if shadow else set())


class SandboxEntries:
    """The entries of `sandboxes`, and who is in them."""

    def __init__(self, loader: BpfLoader) -> None:
        self._loader = loader
        self._lock = threading.RLock()
        self._places = bpf_maps.SandboxArray(loader.map_fd("sandboxes"), loader.sandboxes)
        self._control = bpf_maps.ControlPage(loader.map_fd("control"))
        self._slots = bpf_maps.SlotPages(loader.map_fd("slots"), loader.sandboxes)
        self._free = list(range(loader.sandboxes - 1, 0, -1))
        self._epoch = 0
        self._by_id: dict[str, Entry] = {}
        self._by_index: dict[tuple[int, int], Entry] = {}

    # -- life ---------------------------------------------------------------------------------------------------------

    def open(
        self, sandbox_id: str, policy: BpfPolicy, shadow: BpfPolicy | None = None, *, events_per_s: int = 1000
    ) -> Entry:
        """Make an entry without tasks. The entry holds both policies."""
        with self._lock:
            if sandbox_id in self._by_id:
                raise EnforcementError(f"bpf, sandbox {sandbox_id}: it has an entry already")
            if not self._free:
                raise EnforcementError(
                    f"bpf, sandbox {sandbox_id}: {self._loader.sandboxes - 1} sandboxes are in the kernel's table",
                    hint="close some, or make the supervisor with a larger table",
                )
            self._epoch += 1
            entry = Entry(self._free.pop(), self._epoch, sandbox_id, policy.hold(), shadow.hold() if shadow else None)
            self._places.reset(entry.index, entry.epoch, events_per_s)
            self._slots.clear(entry.index)
            self._point(entry)
            self._by_id[sandbox_id] = self._by_index[entry.index, entry.epoch] = entry
            return entry

    def _point(self, entry: Entry) -> None:
        self._places.point(entry.index, entry.policy.index, entry.shadow.index if entry.shadow else 0)

    def update(self, sandbox_id: str, policy: BpfPolicy, shadow: BpfPolicy | None = None) -> None:
        """Swap both policies at once."""
        with self._lock:
            entry = self._by_id[sandbox_id]
            old = (entry.policy, entry.shadow)
            entry.policy, entry.shadow = policy.hold(), shadow.hold() if shadow else None
            entry.judged_by |= {policy.index} | ({shadow.index} if shadow else set())
            self._point(entry)
        for gone in old:
            if gone is not None:
                gone.close()

    def close_entry(self, sandbox_id: str) -> tuple[dict[Count, int], Flow]:
        """Refuse everything to tasks that are left in the sandbox, free its entry; return its final counters."""
        with self._lock:
            entry = self._by_id.pop(sandbox_id)
            self._places.point(entry.index, 0, 0)
            counts, flow = self._read(entry, take=True), self.flow(entry)
            self._places.end(entry.index)
            del self._by_index[entry.index, entry.epoch]
            self._free.insert(0, entry.index)  # the longest unused is taken next
        entry.policy.close()
        if entry.shadow is not None:
            entry.shadow.close()
        return counts, flow

    def close(self) -> None:
        """Unmap; entries stay as they are."""
        self._places.close()
        self._control.close()
        self._slots.close()

    # -- look-ups -----------------------------------------------------------------------------------------------------

    def get(self, sandbox_id: str) -> Entry | None:
        """Return a sandbox's entry."""
        return self._by_id.get(sandbox_id)

    def at(self, index: int, epoch: int) -> Entry | None:
        """Return the entry that a record names; None once it is closed."""
        return self._by_index.get((index, epoch))

    # -- membership ---------------------------------------------------------------------------------------------------

    def attach_task(self, entry: Entry, tid: int, *, slot: int | None = None) -> str:
        """Put a thread (a process's first, by pid) into a sandbox; its children follow. Returns how it was done."""
        leader = os.path.isdir(f"/proc/{tid}") and _thread_group(tid) == tid
        try:
            pidfd = libbpf.pidfd_open(tid, 0 if leader else _PIDFD_THREAD)
        except libbpf.BpfCallError as error:
            if leader or error.errno != errno.EINVAL:  # no PIDFD_THREAD (before 6.9)
                raise
            self._hand_over(entry, tid, slot)
            return "hand-over"
        try:
            member = bpf_maps.member(entry.index, entry.epoch, slot)
            libbpf.update(self._loader.map_fd("tasks"), _U32.pack(pidfd), member)
        finally:
            os.close(pidfd)
        return "pidfd"

    def _hand_over(self, entry: Entry, tid: int, slot: int | None) -> None:
        """Leave it to the thread's next hook to take the membership: it happens before that hook decides."""
        with open(f"/proc/{tid}/stat", "rb") as stat:
            start_ticks = int(stat.read().rpartition(b")")[2].split()[19])
        member = bpf_maps.member(entry.index, entry.epoch, slot, start_ticks)
        libbpf.update(self._loader.map_fd("handovers"), _U32.pack(tid), member)
        with self._lock:
            self._control.add_pending()

    def attach_cgroup_id(self, entry: Entry, cgroup_id: int) -> None:
        """Put a cgroup into a sandbox, for the cgroup programs."""
        member = bpf_maps.member(entry.index, entry.epoch, None)
        libbpf.update(self._loader.map_fd("cgroups"), struct.pack("=Q", cgroup_id), member)
        entry.groups.add(cgroup_id)

    def forget_cgroup_id(self, cgroup_id: int) -> None:
        """Take a cgroup out."""
        libbpf.delete(self._loader.map_fd("cgroups"), struct.pack("=Q", cgroup_id))

    def set_cgroup_strict(self, strict: bool) -> None:
        """Say whether tasks in an attached cgroup that no sandbox owns are refused."""
        self._control.set_cgroup_strict(strict)

    def slot_page(self, entry: Entry) -> tuple[int, int]:
        """Return (descriptor, page number) of the sandbox's broker slots, for `native.audit.set_slot`."""
        return self._loader.map_fd("slots"), entry.index

    # -- counters -----------------------------------------------------------------------------------------------------

    def counters_of(self, entry: Entry) -> dict[Count, int]:
        """Return one sandbox's exact counters. Raises BpfCallError."""
        return self._read(entry)

    def _read(self, entry: Entry, *, take: bool = False) -> dict[Count, int]:
        if not any(self._places.flow(entry.index)):
            return {}  # every count is of a record that was delivered, suppressed or lost
        fd = self._loader.map_fd("counters")
        found = bpf_maps.read_counters(fd, entry.index, entry.epoch, entry.judged_by, _COUNTED, take=take)
        return {
            Count(
                CAPABILITY_BY_NUMBER[part.capability],
                CODES[part.code],
                VERDICTS[part.verdict],
                bool(part.kind & _KIND_SHADOW),
            ): count
            for part, count in found.items()
        }

    def flow(self, entry: Entry) -> Flow:
        """Return what became of a sandbox's records so far."""
        return Flow(*self._places.flow(entry.index))

    @property
    def uncounted(self) -> int:
        """Denials that no counter could be made for (0, or the counters are not exact)."""
        return self._control.uncounted


def _thread_group(tid: int) -> int:
    with contextlib.suppress(OSError), open(f"/proc/{tid}/status", "rb") as status:
        for line in status:
            if line.startswith(b"Tgid:"):
                return int(line.split()[1])
    return 0
