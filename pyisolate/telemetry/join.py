"""Bring the two records of one operation together: exactly, by (thread, sequence), never by time alone.

Where an enforcer's records carry no sequence (Landlock, seccomp notification), an operation that the broker allowed
and the kernel refused is told twice: by the enforcer, and by the errno at the hook. Those two are one when capability
and target (and the thread, where it can be translated) are equal and neither was used before.

A kernel record never waits and is never swallowed: no report of a guest can hide what the kernel saw. The guest's errno
report that belongs to it comes afterwards and completes it.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from ..capability import Capability
from .event import BrokerRecord, DenialEvent, KernelRecord
from .merge import is_denial

_Key = tuple[object, ...]
_T = TypeVar("_T")


class Told(NamedTuple):
    """A refusal that the kernel's record has told of already, and the guest's report of the same one."""

    event: DenialEvent
    broker: BrokerRecord


class Joiner:
    """One sandbox's records that may still have another half. Thread-safe.

    `expects` says whether an enforcer records refusals of a capability by itself: errno reports of others wait for
    nothing. `translate_tid` turns a thread id as the guest sees it into the supervisor's. `hold_ms` bounds how long an
    errno report waits for the kernel's record, `capacity` how many records are remembered; the oldest go first.
    """

    def __init__(
        self,
        expects: Callable[[Capability], bool] = lambda capability: False,
        *,
        translate_tid: Callable[[int], int] | None = None,
        hold_ms: float = 2.0,
        capacity: int = 1024,
    ) -> None:
        self._expects, self._translate = expects, translate_tid
        self._hold_ns = int(hold_ms * 1e6)
        self._capacity = capacity
        self._lock = threading.Lock()
        self._waiting = _Index[BrokerRecord]()
        self._told = _Index[DenialEvent]()

    def kernel(self, record: KernelRecord) -> BrokerRecord | None:
        """Return the errno report that waits for this record, if there is one."""
        with self._lock:
            return self._waiting.take(self._kernel_keys(record))

    def tell(self, record: KernelRecord, event: DenialEvent) -> None:
        """Remember the event of a kernel record that had no other half, for the errno report that may follow."""
        if record.broker_consulted is False:
            return  # native code went round the hooks: nothing will follow
        with self._lock:
            self._told.put(self._kernel_keys(record), event)
            if len(self._told) > self._capacity:
                self._told.take_oldest()

    def broker(self, record: BrokerRecord, now_ns: int | None = None) -> list[BrokerRecord | Told]:
        """Take a validated record; return what is complete now, each to be recorded alone or to complete an event."""
        now = time.monotonic_ns() if now_ns is None else now_ns
        keys = self._broker_keys(record)
        with self._lock:
            ready: list[BrokerRecord | Told] = [*self._due(now)]
            told = self._take_told(keys, record.count)
            if told:
                ready += [Told(event, record) for event in told]
            elif record.errno is not None and self._expects(record.capability):
                self._waiting.put(keys, record, now)
                if len(self._waiting) > self._capacity:
                    ready.append(self._waiting.take_oldest())
            elif is_denial(record):
                ready.append(record)
            return ready

    def settle(self, now_ns: int | None = None, *, force: bool = False) -> list[BrokerRecord]:
        """Return the reports that waited longer than `hold_ms`, or all (`force`: a request or the sandbox ended)."""
        now = time.monotonic_ns() if now_ns is None else now_ns
        with self._lock:
            return self._due(now, force=force)

    @property
    def waiting(self) -> int:
        """How many errno reports wait for the kernel's record."""
        return len(self._waiting)

    def _take_told(self, keys: list[_Key], count: int) -> list[DenialEvent]:
        """Return the events that a report stands for: the hooks count repeats before they report them."""
        told: list[DenialEvent] = []
        while count > 0 and (event := self._told.take(keys)) is not None:
            told.append(event)
            count -= event.count
        return told

    def _due(self, now: int, *, force: bool = False) -> list[BrokerRecord]:
        due: list[BrokerRecord] = []
        while (since := self._waiting.oldest_ns()) is not None and (force or now - since >= self._hold_ns):
            due.append(self._waiting.take_oldest())
        return due

    def _broker_keys(self, record: BrokerRecord) -> list[_Key]:
        if record.errno is None:
            return []  # the broker refused: no system call was made, so there is no other half
        tid = self._translate(record.tid) if self._translate is not None and record.tid else record.tid
        exact: list[_Key] = [(tid, record.sequence)] if record.sequence else []
        return [*exact, (tid if self._translate is not None else 0, record.capability, record.target)]

    def _kernel_keys(self, record: KernelRecord) -> list[_Key]:
        if record.sequence:
            return [(record.tid, record.sequence)]
        return [(record.tid if self._translate is not None else 0, record.capability, record.target)]


class _Index(Generic[_T]):
    """Items under one or more keys, oldest first; taking one removes it under all."""

    def __init__(self) -> None:
        self._entries: OrderedDict[int, tuple[list[_Key], _T, int]] = OrderedDict()
        self._keys: dict[_Key, deque[int]] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, keys: list[_Key], item: _T, since_ns: int = 0) -> None:
        self._next += 1
        self._entries[self._next] = (keys, item, since_ns)
        for key in keys:
            self._keys.setdefault(key, deque()).append(self._next)

    def take(self, keys: list[_Key]) -> _T | None:
        for key in keys:
            numbers = self._keys.get(key)
            if numbers:
                return self._remove(numbers[0])
        return None

    def take_oldest(self) -> _T:
        return self._remove(next(iter(self._entries)))

    def oldest_ns(self) -> int | None:
        for _, _, since_ns in self._entries.values():
            return since_ns
        return None

    def _remove(self, number: int) -> _T:
        keys, item, _ = self._entries.pop(number)
        for key in keys:
            numbers = self._keys[key]
            numbers.remove(number)  # nearly always its head: the oldest goes first
            if not numbers:
                del self._keys[key]
        return item
