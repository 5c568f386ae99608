"""One thread that ends what runs past its limits: exact on wall clock, adaptive on what has to be sampled.

It sleeps until the earliest moment at which anything can be exceeded. A sandbox with 8 s of processor time left on two
processors cannot use it up in less than 4 s, so it is not looked at before.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import logging
import os
import threading
from collections.abc import Callable, Hashable

from ..errors import SandboxError
from ..native.result import advice
from ..native.threads import Thread
from ..policy.compiled import Limits
from .clock import Clock, MonotonicClock
from .exceeded import ExceededLimit, exceeded
from .usage import Usage

__all__ = ["ExceededLimit", "Watchdog"]

log = logging.getLogger("pyisolate.limits.watchdog")

ReadUsage = Callable[[], Usage | None]
OnExceeded = Callable[[Hashable, ExceededLimit], None]

_MS = 1_000_000

#: Sampling of what the kernel does not bound for us: at 1 GB/s of page faults a guest gains 20 to 50 MB in between.
_NEAR_NS, _FAR_NS = 20 * _MS, 50 * _MS

#: Looking for what the kernel has already stopped (an OOM kill, a refused fork): well within the promised second.
_ENFORCED_NS = 200 * _MS

#: A sandbox that used no processor time since the last look is looked at half as often, down to this. What the kernel
#: bounds, it has stopped anyway; what it does not, can at worst reach the per-process backstops in between.
_IDLE_ENFORCED_NS, _IDLE_NS = 800 * _MS, 200 * _MS
_IDLE_CPU_S = 0.002

#: However many sandboxes are busy, sampling takes at most this share of one processor, but looks every 400 ms.
_SHARE = 0.1
_SLOWEST_NS = 400 * _MS

#: From the first entry to the first call of what goes beside.
_FIRST_CALL_NS = 100 * _MS

#: Read once: it is a file.
_PROCESSORS = os.cpu_count() or 1


class _Watched:
    """One key's entry. `serial` tells stale heap entries from the present one."""

    __slots__ = (
        "cpu_s",
        "deadline_ns",
        "idle_looks",
        "key",
        "limits",
        "on_exceeded",
        "read_usage",
        "sample_ns",
        "started_ns",
    )

    def __init__(
        self,
        key: Hashable,
        deadline_ns: int | None,
        limits: Limits | None,
        read_usage: ReadUsage | None,
        on_exceeded: OnExceeded,
        enforced: bool,
        started_ns: int,
    ) -> None:
        self.key = key
        self.deadline_ns = deadline_ns
        self.limits = limits
        self.read_usage = read_usage
        self.on_exceeded = on_exceeded
        self.started_ns = started_ns
        self.cpu_s = 0.0
        self.idle_looks = 0
        self.sample_ns: int | None = None
        if read_usage is not None and limits is not None and _needs_sampling(limits):
            self.sample_ns = self.started_ns + _first_pause_ns(limits, enforced)

    def next_ns(self) -> int | None:
        """Return when this entry has to be looked at next."""
        if self.deadline_ns is None or self.sample_ns is None:
            return self.deadline_ns if self.sample_ns is None else self.sample_ns
        return min(self.deadline_ns, self.sample_ns)


class _Companion:
    """What is called on the same thread while anything is watched; `at_ns` is None while nothing is."""

    __slots__ = ("at_ns", "key", "look")

    def __init__(self, look: Callable[[], float]) -> None:
        self.key: Hashable = self
        self.look = look
        self.at_ns: int | None = None

    def next_ns(self) -> int | None:
        """Return when it is to be called next."""
        return self.at_ns


def _first_pause_ns(limits: Limits, enforced: bool) -> int:
    uses_up_ns = None if limits.cpu_s is None else max(_NEAR_NS, int(limits.cpu_s * 1e9) // _PROCESSORS)
    if uses_up_ns is not None and limits.memory_bytes is None and limits.processes is None:
        return uses_up_ns
    if not enforced:
        return _NEAR_NS
    return _ENFORCED_NS if uses_up_ns is None else min(_ENFORCED_NS, uses_up_ns)


def _needs_sampling(limits: Limits) -> bool:
    return limits.cpu_s is not None or limits.memory_bytes is not None or limits.processes is not None


class Watchdog:
    """Watch deadlines and usage by key. Thread-safe; its one thread starts with the first `watch`."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or MonotonicClock()
        self._wake = threading.Condition()
        self._entries: dict[Hashable, _Watched] = {}
        self._heap: list[tuple[int, int, _Watched | _Companion]] = []
        self._companion: _Companion | None = None
        self._serial = itertools.count()
        self._thread: Thread | None = None
        self._sleeps_until_ns: int | None = None
        self._stopped = False
        self._read_cost_ns = 0.0
        self._processors = len(os.sched_getaffinity(0))

    def start(self) -> None:
        """Do nothing: the thread starts when it is first needed."""

    def stop(self) -> None:
        """Forget everything and end the thread. No callback starts after this returns, unless a callback called it."""
        with self._wake:
            self._stopped = True
            self._entries.clear()
            self._heap.clear()
            thread = self._thread
            self._wake.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def watch(
        self,
        key: Hashable,
        *,
        deadline_ns: int | None = None,
        limits: Limits | None = None,
        read_usage: ReadUsage | None = None,
        on_exceeded: OnExceeded,
        enforced: bool = False,
    ) -> None:
        """Call `on_exceeded(key, limit)` once, on the watchdog's thread, when the deadline or a limit is passed.

        `deadline_ns` is on the watchdog's clock, CLOCK_MONOTONIC. `read_usage` returns a reading, or None (or raises
        OSError) when there is nothing left to read; it runs on the watchdog's thread and must not block, like
        `on_exceeded`. Watching a key again replaces what was watched. `enforced` says that a control group bounds
        memory and tasks by itself, so that the first look can wait.
        """
        entry = _Watched(key, deadline_ns, limits, read_usage, on_exceeded, enforced, self._clock.now_ns())
        with self._wake:
            if self._stopped:
                raise RuntimeError(f"watch {key!r}: the watchdog is stopped")
            self._entries[key] = entry
            self._schedule(entry)
            if self._companion is not None and self._companion.at_ns is None:
                self._companion.at_ns = entry.started_ns + _FIRST_CALL_NS
                self._schedule(self._companion)
            if self._thread is None:
                thread = Thread(target=self._run, name="pyisolate-watchdog")
                try:
                    thread.start()
                except RuntimeError as error:
                    del self._entries[key]
                    raise SandboxError(f"watch {key!r}: {error}", hint=advice(errno.EAGAIN)) from error
                self._thread = thread

    def accompany(self, look: Callable[[], float]) -> None:
        """Call `look` on the watchdog's thread while anything is watched; it returns the seconds until the next call.

        It must not block. One that is there already is given up.
        """
        with self._wake:
            self._companion = _Companion(look)

    def extend(self, key: Hashable, deadline_ns: int | None) -> bool:
        """Move a deadline, or lift it (None); False when the key is no longer watched."""
        with self._wake:
            entry = self._entries.get(key)
            if entry is None:
                return False
            entry.deadline_ns = deadline_ns
            self._schedule(entry)
            return True

    def unwatch(self, key: Hashable) -> bool:
        """Stop watching. True: nothing was exceeded and no callback will come. False: not watched, or it has fired."""
        with self._wake:
            # The heap entry stays until its time: waking the thread to remove it would cost every short request.
            return self._entries.pop(key, None) is not None

    def __len__(self) -> int:
        return len(self._entries)

    def _schedule(self, entry: _Watched | _Companion) -> None:
        """Call with the lock held."""
        at_ns = entry.next_ns()
        if at_ns is None:
            return
        heapq.heappush(self._heap, (at_ns, next(self._serial), entry))
        if len(self._heap) > 64 + 4 * len(self._entries):
            self._drop_stale()
        if self._sleeps_until_ns is None or at_ns < self._sleeps_until_ns:
            self._wake.notify()

    def _drop_stale(self) -> None:
        # Short requests with long deadlines leave one stale entry each.
        kept = {}
        for item in self._heap:
            if self._is_due_as(item):
                kept[item[2].key] = item
        self._heap = list(kept.values())
        heapq.heapify(self._heap)

    def _is_due_as(self, item: tuple[int, int, _Watched | _Companion]) -> bool:
        at_ns, _, entry = item
        there = entry is self._companion or self._entries.get(entry.key) is entry
        return there and entry.next_ns() == at_ns

    def _run(self) -> None:
        while True:
            with self._wake:
                entry = self._next_due()
            if entry is None:
                return
            if isinstance(entry, _Companion):
                self._call(entry)
                continue
            try:
                self._look_at(entry)
            except Exception:
                log.exception("watchdog, on %r: it is no longer watched", entry.key)
                with self._wake:
                    if self._entries.get(entry.key) is entry:
                        del self._entries[entry.key]

    def _call(self, companion: _Companion) -> None:
        """Call the companion, and again later; after the last entry is gone, not until there is another."""
        try:
            pause_s = companion.look()
        except Exception:
            log.exception("watchdog, on what goes beside it: it is not called any more")
            return
        with self._wake:
            companion.at_ns = self._clock.now_ns() + int(pause_s * 1e9) if self._entries else None
            if not self._stopped and companion is self._companion:
                self._schedule(companion)

    def _next_due(self) -> _Watched | _Companion | None:
        """Sleep until an entry is due and return it; None once stopped. Call with the lock held."""
        while not self._stopped:
            while self._heap and not self._is_due_as(self._heap[0]):
                heapq.heappop(self._heap)
            if not self._heap:
                self._sleeps_until_ns = None
                self._clock.wait(self._wake, None)
                continue
            left_ns = self._heap[0][0] - self._clock.now_ns()
            if left_ns <= 0:
                return heapq.heappop(self._heap)[2]
            self._sleeps_until_ns = self._heap[0][0]
            self._clock.wait(self._wake, left_ns / 1e9)
        return None

    def _look_at(self, entry: _Watched) -> None:
        now_ns = self._clock.now_ns()
        found: ExceededLimit | None = None
        if entry.deadline_ns is not None and now_ns >= entry.deadline_ns:
            found = ExceededLimit(
                limit="wall",
                used=(now_ns - entry.started_ns) / 1e9,
                allowed=(entry.deadline_ns - entry.started_ns) / 1e9,
            )
        elif entry.sample_ns is not None and now_ns >= entry.sample_ns:
            found = self._sample(entry)
        with self._wake:
            if self._entries.get(entry.key) is not entry:
                return
            if found is None:
                self._schedule(entry)
                return
            del self._entries[entry.key]
        entry.on_exceeded(entry.key, found)

    def _sample(self, entry: _Watched) -> ExceededLimit | None:
        assert entry.read_usage is not None
        assert entry.limits is not None
        started_ns = self._clock.now_ns()
        try:
            usage = entry.read_usage()
        except OSError:
            usage = None
        now_ns = self._clock.now_ns()
        self._read_cost_ns += 0.1 * (now_ns - started_ns - self._read_cost_ns)
        if usage is None:
            # Gone: the thread that reaps it reports its end. The deadline stays.
            entry.sample_ns = None
            return None
        entry.idle_looks = entry.idle_looks + 1 if usage.cpu_s - entry.cpu_s < _IDLE_CPU_S else 0
        entry.cpu_s = usage.cpu_s
        entry.sample_ns = now_ns + self._pause_ns(entry.limits, usage, entry.idle_looks)
        return exceeded(entry.limits, usage)

    def _pause_ns(self, limits: Limits, usage: Usage, idle_looks: int) -> int:
        """Return how long nothing can be missed: the nearest of what each limit allows."""
        pause_ns = _SLOWEST_NS
        if limits.cpu_s is not None:
            left_ns = int((limits.cpu_s - usage.cpu_s) * 1e9)
            pause_ns = max(_NEAR_NS, left_ns // self._processors)
        if limits.memory_bytes is not None or limits.processes is not None:
            if usage.source == "cgroup":
                pause_ns = min(pause_ns, _ENFORCED_NS << min(idle_looks, 8), _IDLE_ENFORCED_NS)
            else:
                usual_ns = _NEAR_NS if _is_near(limits, usage) else _FAR_NS
                pause_ns = min(pause_ns, usual_ns << min(idle_looks, 8), _IDLE_NS)
        floor_ns = int(self._read_cost_ns * len(self._entries) / _SHARE)
        return max(pause_ns, min(floor_ns, _SLOWEST_NS))


def _is_near(limits: Limits, usage: Usage) -> bool:
    memory, processes = limits.memory_bytes, limits.processes
    return (memory is not None and usage.memory_bytes > memory // 2) or (
        processes is not None and usage.processes > processes // 2
    )
