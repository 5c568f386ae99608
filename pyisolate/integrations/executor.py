"""Sandboxes as a `concurrent.futures.Executor`: each task runs in one, and its future holds what was refused."""

from __future__ import annotations

import collections
import contextvars
import functools
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from typing import Any, ParamSpec, TypeVar, Unpack

from .. import api
from ..actor import current_actor
from ..errors import SandboxError
from ..native.threads import Workers
from ..sandbox.process import Sandbox
from ..supervisor.options import PolicyLike, SpawnOptions, as_policy, check_options
from ..supervisor.supervisor import Supervisor
from ..telemetry.event import DenialEvent
from .new_events import NewEvents

_P = ParamSpec("_P")
_T = TypeVar("_T")


class SandboxFuture(Future[_T]):
    """A future of a `SandboxExecutor`; `denials` are the events of its task alone, complete when it is done."""

    def __init__(self) -> None:
        super().__init__()
        self.denials: tuple[DenialEvent, ...] = ()


class _Work:
    """One task: what to call, for which future, in which context of the submitter's."""

    def __init__(self, future: SandboxFuture[Any], call: Callable[[], Any]) -> None:
        self.future, self.call, self.context = future, call, contextvars.copy_context()


class _Used:
    """A sandbox, for whom it was spawned, how many tasks it has had, and which of its events belong to them."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox, self.actor, self.tasks = sandbox, current_actor(), 0
        self._events = NewEvents()

    def new_events(self) -> tuple[DenialEvent, ...]:
        return self._events.take(self.sandbox)


class SandboxExecutor(Executor):
    """A `concurrent.futures.Executor` whose tasks run in sandboxes under `policy`. A context manager.

    `max_workers`: sandboxes at a time (default: processors + 4, at most 32). `initializer(*initargs)` runs in each
    sandbox before its first task; where it fails, the executor is broken. `reuse`: tasks that one sandbox gets, one
    after the other, before it is closed; what a task leaves there the next one finds (default 1: each gets its own).
    Tasks of different actors share none. `timeout`: seconds for one task. `supervisor`: default is the process's.
    `options` go to `spawn`; the actor of the submitter's context travels along.

    Functions and arguments are sent by value, results come back as those of `Sandbox.call`. A task's error is a
    SandboxError (GuestError, PolicyError, LimitExceeded ...) with `denials`, as on its future.
    """

    def __init__(
        self,
        policy: PolicyLike | None = None,
        max_workers: int | None = None,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        reuse: int = 1,
        timeout: float | None = None,
        name: str = "executor",
        supervisor: Supervisor | None = None,
        **options: Unpack[SpawnOptions],
    ) -> None:
        workers = min(32, (os.cpu_count() or 1) + 4) if max_workers is None else max_workers
        if workers < 1:
            raise ValueError("max_workers must be greater than 0")
        if reuse < 1:
            raise ValueError(f"SandboxExecutor: reuse is {reuse}. Hint: give at least 1")
        check_options("SandboxExecutor", options)
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._policy = None if policy is None else as_policy("SandboxExecutor: policy", policy)
        self._options, self._reuse, self._timeout = options, reuse, timeout
        self._initializer = None if initializer is None else functools.partial(initializer, *initargs)
        self._name, self._numbers, self._supervisor = name, itertools.count(1), supervisor
        self._threads = Workers(workers, f"pyisolate-{name}")
        self._lock = threading.Lock()
        self._waiting: dict[SandboxFuture[Any], None] = {}
        self._idle: collections.deque[_Used] = collections.deque()
        self._closed = False
        self._broken: str | None = None

    # -- the executor's contract ------------------------------------------------------------------------------

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> SandboxFuture[_T]:
        """Have `fn(*args, **kwargs)` called in a sandbox; returns its future.

        Raises RuntimeError after `shutdown`, BrokenExecutor after an initializer failed.
        """
        future: SandboxFuture[_T] = SandboxFuture()
        work = _Work(future, functools.partial(fn, *args, **kwargs))
        with self._lock:
            if self._broken is not None:
                raise BrokenExecutor(self._broken)
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._waiting[future] = None
            self._threads.submit(self._work, work)
        return future

    def map(
        self, fn: Callable[..., _T], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[_T]:
        """Return the results of `fn` over the iterables, in order; `chunksize` calls share a task, and its sandbox.

        `timeout`: seconds from now for all results. The iterator raises what a task raised.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if chunksize == 1:
            return super().map(fn, *iterables, timeout=timeout)
        chunks = list(_chunks(zip(*iterables), chunksize))  # noqa: B905 - as map
        results = super().map(functools.partial(_call_each, fn), chunks, timeout=timeout)
        return itertools.chain.from_iterable(map(_as_many, chunks, results))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; `wait` until those that were taken are done, or with `cancel_futures` only what runs."""
        with self._lock:
            self._closed = True
            waiting = list(self._waiting) if cancel_futures else []
        for future in waiting:
            future.cancel()
        self._close_idle()
        self._threads.shutdown(wait=wait)

    # -- in a thread of the executor ------------------------------------------------------------------------

    def _work(self, work: _Work) -> None:
        with self._lock:
            if work.future not in self._waiting:  # it has failed with the executor
                return
            del self._waiting[work.future]
        if not work.future.set_running_or_notify_cancel():
            return
        try:
            value = work.context.run(self._call, work)
        except BaseException as error:
            work.future.set_exception(error)
        else:
            work.future.set_result(value)

    def _call(self, work: _Work) -> Any:
        used = self._take()
        try:
            return used.sandbox.call(work.call, timeout=self._timeout)
        except SandboxError as error:
            error.denials = work.future.denials = used.new_events()
            raise
        finally:
            work.future.denials = work.future.denials or used.new_events()
            self._give_back(used)

    def _take(self) -> _Used:
        if (used := self._take_idle()) is not None:
            return used
        supervisor = self._supervisor or api.default_supervisor()
        used = _Used(supervisor.spawn(f"{self._name}-{next(self._numbers)}", self._policy, **self._options))
        try:
            self._initialize(used)
        except BaseException:
            used.sandbox.close()
            raise
        return used

    def _take_idle(self) -> _Used | None:
        """Return an idle sandbox of this context's actor: another's has that one's name, and what its tasks left.

        Closes those that have ended, and where there is none of this actor's the one that was idle longest.
        """
        found, actor = None, current_actor()
        with self._lock:
            unwanted = [one for one in self._idle if one.sandbox.closed]
            living = [one for one in self._idle if not one.sandbox.closed]
            own = [one for one in living if one.actor == actor]
            if own:
                living.remove(found := own[-1])
            elif living:
                unwanted.append(living.pop(0))
            self._idle = collections.deque(living)
        for one in unwanted:
            one.sandbox.close()
        return found

    def _initialize(self, used: _Used) -> None:
        if self._initializer is None:
            return
        try:
            used.sandbox.call(self._initializer, timeout=self._timeout)
        except SandboxError as error:
            self._break(f"an initializer failed: {error.summary}")
            raise BrokenExecutor(self._broken) from error
        used.new_events()

    def _give_back(self, used: _Used) -> None:
        used.tasks += 1
        with self._lock:
            keep = used.tasks < self._reuse and not self._closed and not used.sandbox.closed
            if keep:
                self._idle.append(used)
        if not keep:
            used.sandbox.close()

    def _break(self, why: str) -> None:
        """All that wait fail, as the ones do that come later."""
        with self._lock:
            self._broken = why
            waiting = list(self._waiting)
            self._waiting.clear()
        for future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(BrokenExecutor(why))

    def _close_idle(self) -> None:
        with self._lock:
            idle = list(self._idle)
            self._idle.clear()
        for used in idle:
            used.sandbox.close()


def _call_each(function: Callable[..., _T], chunk: list[tuple[Any, ...]]) -> list[_T]:
    return [function(*arguments) for arguments in chunk]


def _as_many(chunk: list[tuple[Any, ...]], results: Any) -> list[Any]:
    """Return the results of a chunk. A guest that gives more or fewer would move those of all others."""
    if type(results) is not list or len(results) != len(chunk):
        count = f"{len(results)} results" if type(results) is list else "no list of results"
        raise SandboxError(
            operation="map",
            subject=f"a chunk of {len(chunk)}",
            cause=f"its guest returned {count}",
            hint="code of the guest has changed what the chunk returns: map with chunksize=1, one guest for each call",
        )
    return results


def _chunks(items: Iterable[tuple[Any, ...]], size: int) -> Iterator[list[tuple[Any, ...]]]:
    taken = iter(items)
    while chunk := list(itertools.islice(taken, size)):
        yield chunk
