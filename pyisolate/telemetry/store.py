"""The bounded memory of one sandbox's denials: duplicates coalesce, nothing is forgotten without being counted."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator

import msgspec

from ..native.forked import renew
from .event import DenialEvent
from .merge import new_event_id

CAPACITY = 1000
#: Duplicates whose gap is shorter than this are one event with a count.
COALESCE_WINDOW_S = 10.0

Key = tuple[object, ...]


def coalesce_key(event: DenialEvent) -> Key:
    """Return what makes two denials duplicates: all that a reader would act on, but not the thread or the time."""
    return (
        event.sandbox_id,
        event.capability,
        event.target,
        event.code,
        event.broker_decision,
        event.kernel_decision,
        event.kernel_evaluation,
        event.kernel_enforcer,
        event.kernel_errno,
        event.origin,
        event.also,
        event.would_deny,
        event.shadow,
        event.answer,
        event.asked_by,
        event.detail,
        event.reported_by,
        event.policy_generation,
        event.traceparent,
        None if event.actor is None else (event.actor.kind, event.actor.id),
    )


def coalesce(first: DenialEvent, again: DenialEvent) -> DenialEvent:
    """Return `first` with `again` counted into it."""
    return msgspec.structs.replace(
        first,
        count=first.count + again.count,
        first_seen=min(first.first_seen, again.first_seen),
        last_seen=max(first.last_seen, again.last_seen),
    )


class _Slot(msgspec.Struct, eq=False, gc=False):
    event: DenialEvent
    key: Key
    number: int
    touched_ns: int
    version: int


class EventStore:
    """A ring of at most `capacity` events. Thread-safe; readable after `close`.

    `lost` counts operations (not slots) that left the ring to make room, `total` all that were ever added:
    `total == lost + sum(event.count for event in store.events())` at any time.
    """

    def __init__(self, capacity: int = CAPACITY, coalesce_window_s: float = COALESCE_WINDOW_S) -> None:
        if capacity < 1:
            raise ValueError(f"event store, capacity {capacity}: it must hold at least one event")
        self._capacity = capacity
        self._window_ns = int(coalesce_window_s * 1e9)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._followers = 0
        self._slots: OrderedDict[int, _Slot] = OrderedDict()  # in order of last change
        self._latest: dict[Key, _Slot] = {}
        self._version = 0
        self._lost = 0
        self._total = 0
        self._closed = False
        renew(self)

    def renew_after_fork(self) -> None:
        """Replace the lock, which another thread may have held."""
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._followers = 0

    def add(self, event: DenialEvent) -> int:
        """Store an event, or count it into its duplicate. Return how many operations left the ring for it."""
        key = coalesce_key(event)
        now = time.monotonic_ns()
        with self._lock:
            self._version += 1
            self._total += event.count
            self._place(event, key, now, self._version)
            lost = self._evict()
            self._wake_followers()
            return lost

    def amend(self, event: DenialEvent, completed: DenialEvent) -> int | None:
        """Show `completed` in place of `event`, its count kept; None when the ring holds it no longer.

        Where duplicates were counted into one event, it is taken out of their count. Returns how many operations left
        the ring for it.
        """
        key, full = coalesce_key(event), coalesce_key(completed)
        with self._lock:
            slot = self._latest.get(key)
            if slot is None or slot.event.count < event.count or key == full:
                return None
            self._version += 1
            number = self._version
            if slot.event.count == event.count:
                number = slot.number  # its place among the others is when it was first seen
                del self._latest[key], self._slots[number]
            else:
                self._take_out(slot, event)
            self._place(completed, full, slot.touched_ns, number)
            lost = self._evict()
            self._wake_followers()
            return lost

    def named(self, event: DenialEvent) -> DenialEvent:
        """Return an event with the id under which the ring holds it, which is its first duplicate's."""
        with self._lock:
            slot = self._latest.get(coalesce_key(event))
        return event if slot is None else msgspec.structs.replace(event, event_id=slot.event.event_id)

    def events(self) -> list[DenialEvent]:
        """Return what the ring holds, in order of first occurrence."""
        with self._lock:
            return [slot.event for slot in sorted(self._slots.values(), key=lambda slot: slot.number)]

    def since(self, version: int) -> tuple[list[DenialEvent], int]:
        """Return the events that are new or changed since `version` and the version to ask from next (0 first)."""
        with self._lock:
            return self._since(version)

    @property
    def version(self) -> int:
        """Grows with every `add`; a mark for `since` and `follow`."""
        return self._version

    @property
    def lost(self) -> int:
        """How many operations are no longer in the ring."""
        return self._lost

    @property
    def total(self) -> int:
        """How many operations were ever added."""
        return self._total

    @property
    def closed(self) -> bool:
        """True once no event will follow."""
        return self._closed

    def close(self) -> None:
        """End every `follow`. Events stay readable; a late `add` is still stored."""
        with self._lock:
            self._closed = True
            self._wake_followers()

    def _wake_followers(self) -> None:
        """The lock is held."""
        if self._followers:
            self._changed.notify_all()

    def follow(self, *, since: int = 0, timeout: float | None = None) -> Iterator[DenialEvent]:
        """Yield events as they come, until the store closes or nothing came for `timeout` seconds.

        An event that was counted up after it was yielded comes again, with the same `event_id` and the new count.
        """
        version = since
        while True:
            with self._lock:
                end = None if timeout is None else time.monotonic() + timeout
                while self._version <= version and not self._closed:
                    left = None if end is None else end - time.monotonic()
                    if left is not None and left <= 0:
                        return
                    self._followers += 1
                    try:
                        self._changed.wait(left)
                    finally:
                        self._followers -= 1
                batch, version = self._since(version)
                closed = self._closed
            yield from batch
            if closed and not batch:
                return

    def _place(self, event: DenialEvent, key: Key, now: int, number: int) -> None:
        slot = self._latest.get(key)
        if slot is not None and now - slot.touched_ns <= self._window_ns:
            slot.event = coalesce(slot.event, event)
            slot.version, slot.touched_ns = self._version, now
            self._slots.move_to_end(slot.number)
            return
        slot = _Slot(event, key, number, now, self._version)
        self._slots[number] = self._latest[key] = slot

    def _take_out(self, slot: _Slot, event: DenialEvent) -> None:
        rest = slot.event.count - event.count
        same = slot.event.event_id == event.event_id  # an id stays with the event that it was given to
        event_id = new_event_id() if same else slot.event.event_id
        slot.event = msgspec.structs.replace(slot.event, count=rest, event_id=event_id)
        slot.version = self._version
        self._slots.move_to_end(slot.number)

    def _since(self, version: int) -> tuple[list[DenialEvent], int]:
        batch: list[DenialEvent] = []
        for slot in reversed(self._slots.values()):
            if slot.version <= version:
                break
            batch.append(slot.event)
        batch.reverse()
        return batch, self._version

    def _evict(self) -> int:
        lost = 0
        while len(self._slots) > self._capacity:
            _, slot = self._slots.popitem(last=False)
            if self._latest.get(slot.key) is slot:
                del self._latest[slot.key]
            lost += slot.event.count
        self._lost += lost
        return lost


class ClosedStores:
    """The stores of sandboxes that have ended, the newest first to stay: at most `EVENTS_KEPT` events in all."""

    EVENTS_KEPT = 20_000
    STORES_KEPT = 4096

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stores: OrderedDict[str, tuple[EventStore, int]] = OrderedDict()
        self._events = 0

    def keep(self, sandbox_id: str, store: EventStore) -> None:
        """Keep a closed store if there is anything in it."""
        size = len(store.events())
        if not size:
            return
        with self._lock:
            self._stores[sandbox_id] = (store, size)
            self._events += size
            while self._events > self.EVENTS_KEPT or len(self._stores) > self.STORES_KEPT:
                _, (_, gone) = self._stores.popitem(last=False)
                self._events -= gone

    def get(self, sandbox_id: str) -> EventStore | None:
        """Return a kept store or None."""
        entry = self._stores.get(sandbox_id)
        return None if entry is None else entry[0]
