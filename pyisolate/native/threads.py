"""Threads that start within a limit of time, or not at all.

`threading.Thread.start` waits for the started signal of the new thread, without end: one that had no memory for its
first Python frame ends without it, and its starter waits for ever (CPython 3.11 to 3.14, `Thread._bootstrap_inner`).
Here the starter waits for a started signal of its own, for `PATIENCE_S`. All threads of the package
are of this class, but the guest's that attends to programs (`cell/launched.py`), for whose start nothing waits.
"""

from __future__ import annotations

import concurrent.futures
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

#: How long a new thread may take until it runs (seconds): a processor that is shared by fifty takes a tenth of it.
PATIENCE_S = 5.0
_HINT = "Hint: the machine, or its control group, is short of memory or processors"
_P = ParamSpec("_P")
_T = TypeVar("_T")


class _StartedSignal(threading.Event):
    """What `Thread.start` waits for, as a lock: to wait for it and to give it takes no memory."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self, timeout: float | None = None) -> bool:
        return self._lock.acquire(timeout=PATIENCE_S if timeout is None else timeout)

    def give(self) -> None:
        self._lock.release()


class Thread(threading.Thread):
    """A thread that runs once `start` has returned, and never runs where `start` has raised."""

    def __init__(
        self,
        target: Callable[..., object],
        *,
        args: tuple[object, ...] = (),
        name: str | None = None,
        daemon: bool = True,
    ) -> None:
        super().__init__(target=target, args=args, name=name, daemon=daemon)
        # CPython 3.11 to 3.14: `Thread.start` waits for `_started`, and the new thread sets it before it calls `run`
        self._signal = self._started = _StartedSignal()
        #: decided once: by the thread when it runs, or by its starter when it gives the thread up
        self._runs: bool | None = None
        self._deciding = threading.Lock()

    def start(self) -> None:
        """Start the thread, once. Raises RuntimeError where it cannot, or does not run within `PATIENCE_S`."""
        if self._runs is not None:
            raise RuntimeError("threads can only be started once")
        try:
            super().start()
        except BaseException:
            self.give_up()
            raise
        if self.give_up():
            raise RuntimeError(f"start thread {self.name!r}: it did not run within {PATIENCE_S:g} s. {_HINT}")

    def run(self) -> None:
        """Run the target, where the starter waits for it."""
        if self._decide(runs=True):
            self._signal.give()
            super().run()

    def give_up(self) -> bool:
        """Keep the thread from running, however late it is started or comes; False where it runs."""
        if self._decide(runs=False):
            return False
        # CPython 3.11 to 3.14: one that ended before its signal would be among `threading.enumerate()` for ever
        getattr(threading, "_limbo", {}).pop(self, None)
        return True

    def _decide(self, runs: bool) -> bool:
        with self._deciding:
            if self._runs is None:
                self._runs = runs
            return self._runs


class Starter:
    """A thread that starts others: they inherit what confines it, and nothing of the caller.

    Landlock, filters, user, affinity and namespaces are a thread's own, and those that it starts have the same. Until
    `open`, and after `close`, the caller starts them itself.
    """

    def __init__(self) -> None:
        self._wanted: queue.SimpleQueue[tuple[Thread, queue.SimpleQueue[BaseException | None]] | None]
        self._wanted = queue.SimpleQueue()
        self._thread: Thread | None = None
        #: held while a request is queued: after `close` nothing would serve it
        self._asking = threading.Lock()

    def open(self) -> None:
        """Start its thread. Raises RuntimeError where it cannot."""
        thread = Thread(self._serve, name="pyisolate-starter")
        thread.start()
        self._thread = thread

    def start(self, thread: Thread) -> None:
        """Start a thread. Raises what `Thread.start` raises."""
        outcome: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        with self._asking:
            if served := self._thread is not None:
                self._wanted.put((thread, outcome))
        if not served:
            thread.start()
            return
        try:
            error = outcome.get(timeout=2 * PATIENCE_S)
        except queue.Empty:
            error = RuntimeError(f"start thread {thread.name!r}: it waited for {2 * PATIENCE_S:g} s. {_HINT}")
            if not thread.give_up():
                return
        if error is not None:
            raise error

    def run(self, call: Callable[[], _T]) -> _T:
        """Run a call on a thread of its own and return its result, or raise what it raised or `start` raises.

        Waits for as long as the call takes: nothing of it is left to run once this has raised.
        """
        future: concurrent.futures.Future[_T] = concurrent.futures.Future()
        self.start(Thread(settle, args=(future, call), name="pyisolate-apart"))
        return future.result()

    def close(self) -> None:
        """End its thread; those that it started go on. It may be opened again."""
        with self._asking:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._wanted.put(None)
        if thread is not None:
            thread.join(PATIENCE_S)

    def _serve(self) -> None:
        while (wanted := self._wanted.get()) is not None:
            thread, outcome = wanted
            try:
                thread.start()
            except BaseException as error:
                outcome.put(error)
            else:
                outcome.put(None)
            del wanted, thread, outcome


class Workers(concurrent.futures.Executor):
    """Runs calls on at most `most` threads of `Thread`. None is started before it is needed.

    `idle_s`: a thread that had nothing to do for so long ends (seconds). `starter` starts them, else who submits.
    Those that are no daemons a host waits for when it ends, as with `concurrent.futures.ThreadPoolExecutor`.
    """

    def __init__(
        self, most: int, name: str, *, idle_s: float = 0.0, starter: Starter | None = None, daemon: bool = False
    ) -> None:
        self._most, self._name, self._idle_s = most, name, idle_s
        self._starter, self._daemon = starter or Starter(), daemon
        self._changed = threading.Condition()
        self._calls: deque[tuple[concurrent.futures.Future[Any], Callable[[], Any]]] = deque()
        self._running = self._idle = 0
        self._serving: set[int] = set()
        self._closed = False

    @property
    def count(self) -> int:
        """How many threads there are."""
        return self._running

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> concurrent.futures.Future[_T]:
        """Have a thread call `fn`. Raises RuntimeError after `shutdown`, or where there is no thread to call it."""
        future: concurrent.futures.Future[_T] = concurrent.futures.Future()
        entry = (future, lambda: fn(*args, **kwargs))
        with self._changed:
            if self._closed:
                hint = "Hint: what they belong to is closed; make another"
                raise RuntimeError(f"submit to threads {self._name!r}: they were shut down. {hint}")
            self._calls.append(entry)
            if self._idle >= len(self._calls) or self._running >= self._most:
                self._changed.notify()
                return future
            self._running += 1
        thread = None
        try:
            thread = Thread(self._serve, name=self._name, daemon=self._daemon)
            self._starter.start(thread)
        except BaseException as error:
            with self._changed:
                if thread is None or thread.give_up():
                    self._running -= 1
                    self._changed.notify_all()
                taken = self._running and isinstance(error, RuntimeError)  # by those that run
                if not taken and entry in self._calls:
                    self._calls.remove(entry)
                    raise
            if not isinstance(error, RuntimeError):
                raise
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more; `wait` until all that was submitted is done, or with `cancel_futures` what runs.

        Raises RuntimeError where one of the threads is to wait for itself; no more is taken all the same.
        """
        with self._changed:
            self._closed = True
            left = list(self._calls) if cancel_futures else []
            if cancel_futures:
                self._calls.clear()
            self._changed.notify_all()
        for future, _call in left:
            future.cancel()
        if wait:
            with self._changed:
                if threading.get_ident() in self._serving:
                    hint = "Hint: pass wait=False there, or call it on another thread"
                    raise RuntimeError(
                        f"shutdown of threads {self._name!r}: one of them cannot wait for itself. {hint}"
                    )
                self._changed.wait_for(lambda: not self._running)

    def _serve(self) -> None:
        with self._changed:
            self._serving.add(threading.get_ident())
        while (entry := self._next()) is not None:
            settle(*entry)
            del entry

    def _next(self) -> tuple[concurrent.futures.Future[Any], Callable[[], Any]] | None:
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: bool(self._calls) or self._closed, self._idle_s)
            self._idle -= 1
            if self._calls:
                return self._calls.popleft()
            self._running -= 1
            self._serving.discard(threading.get_ident())
            self._changed.notify_all()
            return None


def settle(future: concurrent.futures.Future[Any], call: Callable[[], Any]) -> None:
    """Give a future what a call returns or raises, unless it was cancelled."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(call())
    except BaseException as error:
        future.set_exception(error)
