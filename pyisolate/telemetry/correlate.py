"""Bring the two records of one operation together: exactly, by (thread, sequence), never by time alone.

Where an enforcer's records carry no sequence (Landlock, seccomp notification), an operation that the broker allowed
and the kernel refused is reported twice: by the enforcer, and by the errno at the hook. Those two are one when
capability and target (and the thread, where it can be translated) are equal and neither was used before. In monitor
mode, and for a shadow policy, both layers let an operation pass and both report it: those two are one as well.

A kernel record never waits and is never swallowed: no report of a guest can hide what the kernel saw. The guest's errno
report that belongs to it comes afterwards and completes it.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from msgspec.structs import replace

from ..capability import Capability
from ..decision import Verdict
from ..records import BrokerRecord, KernelRecord, is_denial
from .event import DenialEvent
from .store import coalesce, coalesce_key

#: How much later than a report the kernel's record of the same operation may come (nanoseconds).
_LATE_NS = 2_000_000_000
#: KernelRecord.enforcer values whose records know of every question of a hook: they come from the listener, which reads
#: the asked page. BPF slots miss questions without an audit event.
COMPLETE_ENFORCERS = frozenset({"seccomp-notify", "landlock", "root view"})
#: Calls that connect first where MSG_FASTOPEN is among their flags; not every hook, nor every enforcer, sees those.
_SENDING = frozenset({"sendto", "sendmsg"})
_CONNECTS = (Capability.NET_CONNECT, Capability.NET_SEND)
_Key = tuple[object, ...]
_T = TypeVar("_T")


class LateReport(NamedTuple):
    """A guest's report for an event that the kernel's record has already made."""

    event: DenialEvent
    broker: BrokerRecord


class Joiner:
    """One sandbox's records that may still have another half. Thread-safe.

    `expects` says whether an enforcer records a capability's refusals by itself, `watches` whether one records what of
    it is let through: reports about others wait for nothing.
    `translate_tid` turns a thread id as the guest sees it into the supervisor's. `hold_ms` bounds how long an errno
    report waits for the kernel's record, `watch_ms` a report of what was let through (the hook comes before the call,
    and no guest waits for it), `capacity` how many records are remembered; the oldest go first.
    """

    def __init__(
        self,
        expects: Callable[[Capability], bool] = lambda capability: False,
        *,
        watches: Callable[[Capability], bool] = lambda capability: False,
        translate_tid: Callable[[int], int] | None = None,
        hold_ms: float = 2.0,
        watch_ms: float = 100.0,
        capacity: int = 1024,
    ) -> None:
        self._expects, self._watches, self._translate = expects, watches, translate_tid
        self._hold_ns = {False: int(hold_ms * 1e6), True: int(watch_ms * 1e6)}
        self._capacity = capacity
        self._lock = threading.Lock()
        #: by whether the operation was let through
        self._waiting = {False: _Index[BrokerRecord](), True: _Index[BrokerRecord]()}
        self._reported, self._late = _Index[DenialEvent](), _Index[DenialEvent]()

    def kernel(self, record: KernelRecord) -> BrokerRecord | None:
        """Return the report that waits for this record, if there is one; its count says of how many operations."""
        if _is_alone(record):
            return None  # what waits is about another call, whose own record comes
        index = self._waiting[record.verdict is Verdict.WOULD_DENY]
        with self._lock:
            taken = _same(record, self._take_reports(index, self._kernel_keys(record), record.count))
        matched = sum(report.count for report in taken)
        return taken[0] if len(taken) == 1 else replace(taken[0], count=matched) if taken else None

    def late_events(self, record: KernelRecord) -> list[DenialEvent]:
        """Return the events of reports of the same operations that were recorded before this record came.

        They are older than what waits, so a record looks for its other half here first.
        """
        if record.verdict is not Verdict.WOULD_DENY or _is_alone(record):
            return []
        keys = self._kernel_keys(record)
        with self._lock:
            # one of an earlier request, of which no other record came, would hide what native code did since
            oldest = record.monotonic_ns - _LATE_NS
            return self._take_parts(self._late, keys, record.count, lambda event: event.last_seen >= oldest)

    def without_report(self, capability: Capability, verdict: Verdict, count: int) -> int:
        """Return how many of `count` operations that the guest will report no more the kernel has recorded.

        Those are taken: each stands for one report.
        """
        about = (verdict is Verdict.WOULD_DENY, False)
        recorded = 0
        with self._lock:
            entries = self._reported.entries.values()
            meant = [keys for keys, event, _ in entries if event.capability is capability and keys[0][-2:] == about]
            for keys in meant:
                recorded += sum(event.count for event in self._take_parts(self._reported, keys, count - recorded))
        return recorded

    def tell(self, record: KernelRecord, event: DenialEvent, left: int | None = None) -> list[LateReport]:
        """Remember the event of a kernel record, `left` of whose operations had no other half, for what may follow.

        Returns what came while the event was being recorded.
        """
        if record.broker_consulted is False:
            return []  # native code went round the hooks: nothing will follow
        keys, left = self._kernel_keys(record), event.count if left is None else left
        index = self._waiting[record.verdict is Verdict.WOULD_DENY]
        with self._lock:
            taken = self._take_reports(index, keys, left)
            left -= sum(report.count for report in taken)
            if left > 0:
                self._remember(self._reported, keys, replace(event, count=left))
        return [LateReport(event, report) for report in _same(record, taken)]

    def tell_alone(self, record: BrokerRecord, event: DenialEvent) -> None:
        """Remember the event of a report of what was let through: the kernel's record may still follow, on a busy
        machine."""
        if record.verdict is Verdict.WOULD_DENY:
            with self._lock:
                self._remember(self._late, self._broker_keys(record), event)

    def broker(self, record: BrokerRecord, now_ns: int | None = None) -> list[BrokerRecord | LateReport]:
        """Take a validated record; return what is complete now, each to be recorded alone or to complete an event."""
        now = time.monotonic_ns() if now_ns is None else now_ns
        watched = record.verdict is Verdict.WOULD_DENY
        keys = self._broker_keys(record)
        with self._lock:
            ready: list[BrokerRecord | LateReport] = [*self._due(now)]
            late = self._take_parts(self._reported, keys, record.count)
            ready += [
                LateReport(event, replace(record, count=event.count))
                for event in late
                if event.capability is not Capability.PROCESS_FORK or record.capability is event.capability
            ]
            if watched:
                rest = record.count - sum(event.count for event in late)
                record = record if not late else replace(record, count=rest)
            elif late:
                return ready
            if record.count <= 0:
                return ready
            if keys and (self._expects(record.capability) or (watched and self._watches(record.capability))):
                index = self._waiting[watched]
                index.put(keys, record, now)
                if len(index) > self._capacity:
                    ready.append(index.take_oldest())
            elif is_denial(record):
                ready.append(record)
            return ready

    def settle(self, now_ns: int | None = None, *, force: bool = False) -> list[BrokerRecord]:
        """Return the reports that waited for their time, or all (`force`: a request or the sandbox ended)."""
        now = time.monotonic_ns() if now_ns is None else now_ns
        with self._lock:
            return self._due(now, force=force)

    @property
    def due_ns(self) -> int | None:
        """When the time of the next report is over (CLOCK_MONOTONIC), None where none waits."""
        with self._lock:
            since = [(watched, index.oldest_ns()) for watched, index in self._waiting.items()]
        return min((began + self._hold_ns[watched] for watched, began in since if began is not None), default=None)

    @property
    def waiting(self) -> int:
        """How many reports wait for the kernel's record."""
        return len(self._waiting[False].entries) + len(self._waiting[True].entries)

    def _remember(self, index: _Index[DenialEvent], keys: list[_Key], event: DenialEvent) -> None:
        """Remember that as many operations as the event counts have no other half yet. Repeats are one item."""
        newest = index.newest(keys)
        if newest is not None and coalesce_key(newest) == coalesce_key(event):
            index.put_newest(keys, coalesce(newest, event))
            return
        index.put(keys, event)
        if len(index) > self._capacity:
            index.take_oldest()

    def _take_reports(self, index: _Index[BrokerRecord], keys: list[_Key], count: int) -> list[BrokerRecord]:
        """Return the reports that wait, of `count` operations at most; what is left over of the last waits on."""
        taken: list[BrokerRecord] = []
        while count > 0 and (report := index.take(keys)) is not None:
            used = min(count, report.count)
            if report.count > used:
                index.put(self._broker_keys(report), replace(report, count=report.count - used), time.monotonic_ns())
                report = replace(report, count=used)
            taken.append(report)
            count -= used
        return taken

    def _take_parts(
        self,
        index: _Index[DenialEvent],
        keys: list[_Key],
        count: int,
        meant: Callable[[DenialEvent], bool] = lambda event: True,
    ) -> list[DenialEvent]:
        """Return the events of at most `count` operations, each as many strong; what is left over stays remembered.

        What is not meant is forgotten.
        """
        taken: list[DenialEvent] = []
        while count > 0 and (event := index.take(keys)) is not None:
            if not meant(event):
                continue
            used = min(count, event.count)
            if event.count > used:
                index.put(keys, replace(event, count=event.count - used))
            taken.append(replace(event, count=used))
            count -= used
        return taken

    def _due(self, now: int, *, force: bool = False) -> list[BrokerRecord]:
        due: list[BrokerRecord] = []
        for watched, index in self._waiting.items():
            hold_ns = self._hold_ns[watched]
            while (since := index.oldest_ns()) is not None and (force or now - since >= hold_ns):
                due.append(index.take_oldest())
        return due

    def _broker_keys(self, record: BrokerRecord) -> list[_Key]:
        watched = record.verdict is Verdict.WOULD_DENY
        if record.errno is None and not watched:
            return []  # the broker refused: no system call was made, so there is no other half
        tid = self._translate(record.tid) if self._translate is not None and record.tid else record.tid
        about = (watched, record.shadow)
        exact: list[_Key] = [(tid, record.sequence, *about)] if record.sequence else []
        thread = tid if self._translate is not None else 0
        keys = [*exact, (thread, record.capability, _about(record), *about)]
        if (
            not watched
        ):  # the hook knows that the kernel refused its call, and not which of the rights that it asked for
            keys += [(thread, capability, target, *about) for capability, target in record.also]
        if record.capability is Capability.PROCESS_EXEC and not watched:
            # The error of a program that was not started may be that of the process made for it (clone, vfork): the
            # kernel's record of that refusal is its one event, and the report adds nothing.
            keys.append((thread, Capability.PROCESS_FORK, "fork", *about))
        return keys

    def _kernel_keys(self, record: KernelRecord) -> list[_Key]:
        about = (record.verdict is Verdict.WOULD_DENY, record.shadow)
        if record.sequence:
            return [(record.tid, record.sequence, *about)]
        tid = record.tid if self._translate is not None else 0
        return [(tid, capability, _about(record), *about) for capability in _asked_as(record)]


def _same(record: KernelRecord, reports: list[BrokerRecord]) -> list[BrokerRecord]:
    """Return the reports that name the record's capability, or ask for it besides: those as reports of it."""
    found = []
    for report in reports:
        if (record.capability, _about(record)) in report.also:
            report = replace(report, capability=record.capability, also=record.also)
        if report.capability in _asked_as(record):
            found.append(report)
    return found


def _asked_as(record: KernelRecord) -> tuple[Capability, ...]:
    """Return the capabilities of which a hook may ask one where the kernel records this."""
    if record.capability in _CONNECTS and record.syscall in _SENDING:
        return _CONNECTS
    return (record.capability,)


def _is_alone(record: KernelRecord) -> bool:
    """Tell whether no report of a hook can be about this call."""
    return record.broker_consulted is False and record.enforcer in COMPLETE_ENFORCERS


def _about(record: BrokerRecord | KernelRecord) -> str:
    """Return what both layers call the target: randomness has none, and each names its own call for it; a hook names
    the script, of which the kernel refuses the interpreter."""
    if record.capability is Capability.RANDOM_READ:
        return ""
    return (record.script if isinstance(record, KernelRecord) else "") or record.target


class _Index(Generic[_T]):
    """Items under one or more keys, oldest first; taking one removes it under all."""

    def __init__(self) -> None:
        #: by their numbers; to be read without a call: each request's end looks whether something waits
        self.entries: OrderedDict[int, tuple[list[_Key], _T, int]] = OrderedDict()
        self._keys: dict[_Key, deque[int]] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self.entries)

    def put(self, keys: list[_Key], item: _T, since_ns: int = 0) -> None:
        self._next += 1
        self.entries[self._next] = (keys, item, since_ns)
        for key in keys:
            self._keys.setdefault(key, deque()).append(self._next)

    def take(self, keys: list[_Key]) -> _T | None:
        for key in keys:
            numbers = self._keys.get(key)
            if numbers:
                return self._remove(numbers[0])
        return None

    def newest(self, keys: list[_Key]) -> _T | None:
        """Return the newest item under the first of the keys, which is every item's own."""
        numbers = self._keys.get(keys[0]) if keys else None
        return self.entries[numbers[-1]][1] if numbers else None

    def put_newest(self, keys: list[_Key], item: _T) -> None:
        """Put an item in place of the newest under the first of the keys."""
        number = self._keys[keys[0]][-1]
        known, _, since_ns = self.entries[number]
        self.entries[number] = (known, item, since_ns)

    def take_oldest(self) -> _T:
        return self._remove(next(iter(self.entries)))

    def oldest_ns(self) -> int | None:
        for _, _, since_ns in self.entries.values():
            return since_ns
        return None

    def _remove(self, number: int) -> _T:
        keys, item, _ = self.entries.pop(number)
        for key in keys:
            numbers = self._keys[key]
            numbers.remove(number)  # nearly always its head: the oldest goes first
            if not numbers:
                del self._keys[key]
        return item
