"""Sandboxes on a Dask cluster: a supervisor on each worker, the executor's interface on the client (`distributed`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

from distributed import Client, Future, Worker, WorkerPlugin, get_worker

from ..errors import SandboxError
from ..metrics import serve_metrics
from ..supervisor.options import PolicyLike, SpawnOptions
from ..supervisor.supervisor import Supervisor
from ..telemetry.event import DenialEvent
from .remote_executor import RemoteExecutor, Task, TaskOutcome

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


class ClusterExecutor(RemoteExecutor):
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
        super().__init__(policy, timeout=timeout, on_denials=on_denials, name=name, options=options)
        self._client = client
        self._scheduling = {"resources": resources, "pure": False}

    def _send(self, task: Task) -> Future[TaskOutcome]:
        return self._client.submit(_run_here, task, **self._scheduling)

    def _cancel(self, theirs: Future[TaskOutcome]) -> None:
        theirs.cancel()


def _run_here(task: Task) -> TaskOutcome:
    """In a thread of a worker."""
    worker = get_worker()
    plugin: Any = worker.plugins.get(PLUGIN)
    if plugin is None:
        cause = "no SandboxPlugin is registered"
        lacking = SandboxError(operation="dask", subject=worker.address, cause=cause, hint=_REGISTER)
        return TaskOutcome(None, lacking, (), worker.address)
    return task.run(plugin.supervisor, worker.address)
