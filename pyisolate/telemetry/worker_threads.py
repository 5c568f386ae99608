"""Threads that telemetry works on: calls one after the other, and calls at a later time."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from ..native.threads import Thread

_log = logging.getLogger("pyisolate.telemetry")
_T = TypeVar("_T")

QUEUE_LIMIT = 10_000
#: What fails again and again is logged at most this often; every failure is counted.
LOG_INTERVAL_S = 60.0
#: After a thread did not start no other is tried for so many times as long: a try may take `threads.PATIENCE_S`.
_REST = 9


class Starter:
    """Starts a worker's thread. Where none starts, callers wait a tenth of their time for it at most."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._not_before = 0.0
        self._logged_at = -LOG_INTERVAL_S

    def start(self, target: Callable[[], None]) -> Thread | None:
        """Start a thread for `target`; None where there is none to be had. The caller holds the worker's lock."""
        began = time.monotonic()
        if began < self._not_before:
            return None
        thread = Thread(target=target, name=self._name)
        try:
            thread.start()
        except RuntimeError as error:  # no more threads
            now = time.monotonic()
            self._not_before = now + _REST * (now - began)
            if now - self._logged_at >= LOG_INTERVAL_S:
                self._logged_at = now
                _log.error("%s has no thread: %s (another is tried for)", self._name, error)
            return None
        return thread


class Calls:
    """Runs calls in order, on one thread, through a bounded queue; a full queue refuses the newest."""

    def __init__(self, name: str, limit: int = QUEUE_LIMIT) -> None:
        self._name, self._limit = name, limit
        self._starter = Starter(name)
        self._changed = threading.Condition()
        self._queue: deque[tuple[Callable[[Any], None], Any]] = deque()
        self._busy = self._closed = False
        self._thread: Thread | None = None

    def put(self, call: Callable[[_T], None], argument: _T) -> bool:
        """Queue `call(argument)`; False when there is no room for it, or no thread for the first one."""
        with self._changed:
            if self._closed or len(self._queue) >= self._limit:
                return False
            if self._thread is None:
                self._thread = self._starter.start(self._run)
                if self._thread is None:
                    return False
            self._queue.append((call, argument))
            self._changed.notify_all()
            return True

    def flush(self, timeout: float) -> bool:
        """Wait until nothing is queued or running; False when `timeout` came first."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._queue and not self._busy, timeout)

    def close(self, timeout: float) -> list[Any]:
        """Flush, end the thread, and return the arguments of what did not run. Idempotent."""
        self.flush(timeout)
        with self._changed:
            self._closed = True
            left = [argument for _, argument in self._queue]
            self._queue.clear()
            self._changed.notify_all()
            return left

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                while not self._queue:
                    if self._closed:
                        return
                    self._changed.wait()
                call, argument = self._queue.popleft()
                self._busy = True
            try:
                call(argument)
            except Exception:
                _log.exception("%s: %r failed", self._name, call)


class Timer:
    """Runs callables when they are due, from one thread that exists only while something is."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self._running = False
        self._closed = False
        self._starter = Starter("pyisolate-timer")

    def call_in(self, seconds: float, action: Callable[[], None]) -> None:
        """Run `action` once, in about `seconds`."""
        with self._changed:
            if self._closed:
                return
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._number), action))
            if not self._running:
                self._running = self._starter.start(self._run) is not None  # else a later call tries: this is done then
            self._changed.notify_all()

    def close(self) -> None:
        """Drop what is due and end the thread."""
        with self._changed:
            self._closed = True
            self._due.clear()
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._due and (wait := self._due[0][0] - time.monotonic()) > 0:
                    self._changed.wait(wait)
                if not self._due and not self._closed:
                    self._changed.wait(1.0)  # linger: a flood would otherwise start a thread per record
                if not self._due:
                    self._running = False
                    return
                if self._due[0][0] > time.monotonic():
                    continue
                _, _, action = heapq.heappop(self._due)
            try:
                action()
            except Exception:
                _log.exception("telemetry timer: %r failed", action)
