"""What the executors of clusters share: tasks that travel to a worker's supervisor, and what comes back.

Functions travel as bytes that only the guest unpickles: neither the cluster nor a worker runs anything of them. What
was refused comes back with the result, so that a task that ran again after its worker was killed counts once.
"""

from __future__ import annotations

import abc
import contextvars
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, NamedTuple, ParamSpec, TypeVar

from ..actor import current_actor
from ..errors import SandboxError
from ..sandbox.request import PickledCall, pickle_by_value
from ..supervisor.options import PolicyLike, SpawnOptions, check_options, choose_policy
from ..supervisor.supervisor import Supervisor
from ..telemetry.event import DenialEvent
from ..telemetry.tracing import continued, traceparent
from .executor import SandboxFuture

_P = ParamSpec("_P")
_T = TypeVar("_T")


class TaskOutcome(NamedTuple):
    """What a worker sends back: the value or the error, what was refused, and who ran it."""

    value: Any
    error: SandboxError | None
    denials: tuple[DenialEvent, ...]
    worker: str


class Task(NamedTuple):
    """What a worker is sent. The trace is that of the submitter, whose spans and events it goes on with."""

    name: str
    policy: Any
    options: dict[str, Any]
    timeout: float | None
    payload: bytes
    trace: str | None

    def run(self, supervisor: Supervisor, worker: str) -> TaskOutcome:
        """On a worker: run it in a sandbox of the worker's own supervisor."""
        try:
            with continued(self.trace), supervisor.spawn(self.name, self.policy, **self.options) as sandbox:
                value, error = None, None
                try:
                    value = sandbox.call(PickledCall(self.payload), timeout=self.timeout)
                except SandboxError as failed:
                    error = failed
                denials = tuple(sandbox.get_denial_events())
        except SandboxError as failed:  # no sandbox was made
            return TaskOutcome(None, failed, (), worker)
        if error is not None:
            error.denials = denials
        return TaskOutcome(value, error, denials, worker)


class RemoteExecutor(Executor, abc.ABC):
    """A `concurrent.futures.Executor` whose tasks run in sandboxes on a cluster; each kind has its own way there.

    `policy`, `timeout` and `options` are those of `SandboxExecutor`. Actor and trace context of the submitter travel
    along. `on_denials` is called with the events of each finished task, once, from a thread of the cluster's client.
    """

    def __init__(
        self,
        policy: PolicyLike | None,
        *,
        timeout: float | None,
        on_denials: Callable[[tuple[DenialEvent, ...]], object] | None,
        name: str,
        options: SpawnOptions,
    ) -> None:
        check_options(type(self).__name__, options)
        self._timeout, self._options = timeout, options
        # read here: a file of the client's is none of a worker's
        self._policy = choose_policy(policy, None, None, None)
        self._on_denials, self._name, self._numbers = on_denials, name, itertools.count(1)
        self._changed = threading.Condition()
        self._running: dict[SandboxFuture[Any], Any] = {}
        self._closed = False

    @abc.abstractmethod
    def _send(self, task: Task) -> Any:
        """Have a worker run a task; return the cluster's own future, which has `add_done_callback`."""

    @abc.abstractmethod
    def _cancel(self, theirs: Any) -> None:
        """Take back a task that was sent."""

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> SandboxFuture[_T]:
        """Have `fn(*args, **kwargs)` called in a sandbox of some worker; returns its future."""
        options: dict[str, Any] = dict(self._options)
        if "actor" not in options and (actor := current_actor()) is not None:
            options["actor"] = actor
        payload = pickle_by_value(fn, args, kwargs, self._policy)
        ours: SandboxFuture[_T] = SandboxFuture()
        with self._changed:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            name = f"{self._name}-{next(self._numbers)}"
            theirs = self._send(Task(name, self._policy, options, self._timeout, payload, traceparent()))
            self._running[ours] = theirs
        # the callback's thread has a context of its own
        context = contextvars.copy_context()
        theirs.add_done_callback(lambda done: context.run(self._finish, ours, done))
        return ours

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; `wait` for those that were taken. The cluster is its owner's to close."""
        with self._changed:
            self._closed = True
            running = dict(self._running)
        if cancel_futures:
            for ours, theirs in running.items():
                if ours.cancel():
                    self._cancel(theirs)
        if wait:
            with self._changed:
                self._changed.wait_for(lambda: not self._running)

    def _finish(self, ours: SandboxFuture[Any], theirs: Any) -> None:
        try:
            if not ours.set_running_or_notify_cancel():
                return
            outcome, failure = self._outcome(theirs)
            if outcome is not None:
                ours.denials = outcome.denials
                if outcome.denials and self._on_denials is not None:
                    self._on_denials(outcome.denials)
            if failure is not None:
                ours.set_exception(failure)
            elif outcome is not None:
                ours.set_result(outcome.value)
        finally:
            with self._changed:
                self._running.pop(ours, None)
                self._changed.notify_all()

    @staticmethod
    def _outcome(theirs: Any) -> tuple[TaskOutcome | None, BaseException | None]:
        """Return what a task came to; an error of the cluster's own (its worker was lost too often) is the error."""
        try:
            outcome: TaskOutcome = theirs.result()
        except BaseException as error:
            return None, error
        return outcome, outcome.error
