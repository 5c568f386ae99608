"""Sandboxes on a Dask cluster: a supervisor on each worker, and the executor's interface on the client (`distributed`).

Functions travel as bytes that only the guest unpickles: neither the scheduler nor a worker runs anything of them. What
was refused comes back with the result, so that a task that ran again after its worker was killed counts once.
"""

from __future__ import annotations

import contextvars
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, NamedTuple, ParamSpec, TypeVar, Unpack

from distributed import Client, Future, Worker, WorkerPlugin, get_worker

from ..actor import current_actor
from ..errors import SandboxError
from ..metrics import serve_metrics
from ..sandbox.request import PickledCall, pickle_by_value
from ..supervisor.options import PolicyLike, SpawnOptions, choose_policy
from ..supervisor.supervisor import Supervisor
from ..telemetry.event import DenialEvent
from ..telemetry.tracing import continued, traceparent
from .executor import SandboxFuture

_P = ParamSpec("_P")
_T = TypeVar("_T")

PLUGIN = "pyisolate"
_REGISTER = "client.register_plugin(SandboxPlugin())"


class SandboxPlugin(WorkerPlugin):  # type: ignore[misc]
    """A supervisor for each worker of a cluster: `client.register_plugin(SandboxPlugin(pool_size=4))`.

    `metrics`: serve each worker's counters on a free port of 127.0.0.1 (`metrics_urls`). Other arguments are the
    supervisor's. A worker that cannot enforce does not start.
    """

    name = PLUGIN

    def __init__(self, *, metrics: bool = False, **options: Any) -> None:
        self._metrics, self._options = metrics, options

    def setup(self, worker: Worker) -> None:
        """Prove the enforcers and fill the pool, in the worker's process."""
        self.supervisor = Supervisor(**self._options).start()
        self.server = serve_metrics(0) if self._metrics else None
        self.address = worker.address

    def teardown(self, worker: Worker) -> None:
        """End the worker's sandboxes."""
        if self.server is not None:
            self.server.close()
        self.supervisor.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"_metrics": self._metrics, "_options": self._options}


def metrics_urls(client: Client) -> dict[str, str | None]:
    """Return each worker's address and the URL of its counters; None where the plugin serves none."""
    return dict(client.run(_url_here))


def _url_here(dask_worker: Worker) -> str | None:
    """Called by `Client.run`, which knows its worker by this name."""
    plugin: Any = dask_worker.plugins[PLUGIN]
    return None if plugin.server is None else str(plugin.server.url)


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


class ClusterExecutor(Executor):
    """A `concurrent.futures.Executor` whose tasks run in sandboxes on the workers of a Dask cluster.

    `policy`, `timeout` and `options` are those of `SandboxExecutor`. Actor and trace context of the submitter travel
    along. A task whose worker was lost runs again on another one, as often as the scheduler's `allowed-failures` says.
    `resources`: what a task needs of a worker, as Dask has it ({"sandboxes": 1}). `on_denials` is called with the
    events of each finished task, once, from a thread of the client's. The cluster needs `SandboxPlugin`; raises
    SandboxError in the future where a worker lacks it.
    """

    def __init__(
        self,
        client: Client,
        policy: PolicyLike | None = None,
        *,
        timeout: float | None = None,
        resources: dict[str, float] | None = None,
        on_denials: Callable[[tuple[DenialEvent, ...]], object] | None = None,
        name: str = "cluster",
        **options: Unpack[SpawnOptions],
    ) -> None:
        self._client, self._timeout, self._options = client, timeout, dict(options)
        # read here: a file of the client's is none of a worker's
        self._policy = choose_policy(policy, None, None, None)
        self._scheduling = {"resources": resources, "pure": False}
        self._on_denials, self._name, self._numbers = on_denials, name, itertools.count(1)
        self._changed = threading.Condition()
        self._running: dict[SandboxFuture[Any], Future[Any]] = {}
        self._closed = False

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> SandboxFuture[_T]:
        """Have `fn(*args, **kwargs)` called in a sandbox of some worker; returns its future."""
        options = dict(self._options)
        if "actor" not in options and (actor := current_actor()) is not None:
            options["actor"] = actor
        payload = pickle_by_value(fn, args, kwargs)
        ours: SandboxFuture[_T] = SandboxFuture()
        with self._changed:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            name = f"{self._name}-{next(self._numbers)}"
            task = Task(name, self._policy, options, self._timeout, payload, traceparent())
            theirs = self._client.submit(_run_here, task, **self._scheduling)
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
                    theirs.cancel()
        if wait:
            with self._changed:
                self._changed.wait_for(lambda: not self._running)

    def _finish(self, ours: SandboxFuture[Any], theirs: Future[Any]) -> None:
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
    def _outcome(theirs: Future[Any]) -> tuple[TaskOutcome | None, BaseException | None]:
        """Return what a task came to; an error of the cluster's own (its worker was lost too often) is the error."""
        try:
            outcome: TaskOutcome = theirs.result()
        except BaseException as error:
            return None, error
        return outcome, outcome.error


def _run_here(task: Task) -> TaskOutcome:
    """In a thread of a worker: run one task in a sandbox of the worker's own supervisor."""
    worker = get_worker()
    plugin: Any = worker.plugins.get(PLUGIN)
    if plugin is None:
        cause = "no SandboxPlugin is registered"
        lacking = SandboxError(operation="dask", subject=worker.address, cause=cause, hint=_REGISTER)
        return TaskOutcome(None, lacking, (), worker.address)
    try:
        with continued(task.trace), plugin.supervisor.spawn(task.name, task.policy, **task.options) as sandbox:
            value, error = None, None
            try:
                value = sandbox.call(PickledCall(task.payload), timeout=task.timeout)
            except SandboxError as failed:
                error = failed
            denials = tuple(sandbox.get_denial_events())
    except SandboxError as failed:  # no sandbox was made
        return TaskOutcome(None, failed, (), worker.address)
    if error is not None:
        error.denials = denials
    return TaskOutcome(value, error, denials, worker.address)
