"""Sandboxes on a Ray cluster: actors with a supervisor each, and the executor's interface on the driver (`ray`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Unpack

import ray

from ..metrics import serve_metrics
from ..native.threads import Thread
from ..supervisor.options import PolicyLike, SpawnOptions
from ..supervisor.supervisor import Supervisor
from ..telemetry.event import DenialEvent
from .remote_executor import RemoteExecutor, Task, TaskOutcome

_CLOSE_TIMEOUT_S = 10


class SandboxActor:
    """A supervisor in a process of Ray's. An actor that cannot enforce does not start."""

    def __init__(self, options: dict[str, Any], metrics: bool) -> None:
        self._supervisor = Supervisor(**options).start()
        self._server = serve_metrics(0) if metrics else None
        self._id = str(ray.get_runtime_context().get_actor_id())

    def run(self, task: Task) -> TaskOutcome:
        """Run one task, in one of the actor's threads."""
        return task.run(self._supervisor, self._id)

    def metrics_url(self) -> str | None:
        """Return where this actor's counters are served."""
        return None if self._server is None else self._server.url

    def close(self) -> None:
        """End the sandboxes."""
        if self._server is not None:
            self._server.close()
        self._supervisor.close()


class RayExecutor(RemoteExecutor):
    """A `concurrent.futures.Executor` whose tasks run in sandboxes on a Ray cluster: `ray.init()` comes before it.

    `policy`, `timeout` and `options` are those of `SandboxExecutor`. Actor and trace context of the submitter travel
    along. `workers` actors run `tasks_per_worker` tasks at a time each, with supervisors made of `supervisor`, its
    keyword arguments; `ray_options` are those of Ray's `ActorClass.options` ({"num_cpus": 1, "resources": ...}). Ray
    starts a worker that was lost anew, and its tasks run again, `retries` times (-1: without end); then the future has
    Ray's error. `metrics`: serve each worker's counters on a free port of 127.0.0.1 (`metrics_urls`). `on_denials` is
    called with the events of each finished task, once, from a thread of Ray's. `shutdown` ends the workers.
    """

    def __init__(
        self,
        policy: PolicyLike | None = None,
        *,
        workers: int = 1,
        tasks_per_worker: int = 4,
        timeout: float | None = None,
        retries: int = 3,
        metrics: bool = False,
        on_denials: Callable[[tuple[DenialEvent, ...]], object] | None = None,
        name: str = "ray",
        supervisor: dict[str, Any] | None = None,
        ray_options: dict[str, Any] | None = None,
        **options: Unpack[SpawnOptions],
    ) -> None:
        if workers < 1 or tasks_per_worker < 1:
            given = f"workers is {workers}, tasks_per_worker is {tasks_per_worker}"
            raise ValueError(f"RayExecutor: {given}. Hint: give at least 1 of each")
        super().__init__(policy, timeout=timeout, on_denials=on_denials, name=name, options=options)
        lasting = {"max_restarts": -1, "max_task_retries": retries, "max_concurrency": tasks_per_worker}
        maker = ray.remote(SandboxActor).options(**{**lasting, **(ray_options or {})})
        self._actors: list[Any] = [maker.remote(supervisor or {}, metrics) for _ in range(workers)]
        #: by actor's place: tasks that it has
        self._load: Counter[int] = Counter()
        self._sent: dict[Any, Any] = {}

    def metrics_urls(self) -> list[str | None]:
        """Return the URL of each worker's counters; None where it serves none."""
        return list(ray.get([actor.metrics_url.remote() for actor in self._actors]))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks, `wait` for those that were taken, and end the workers once they are done."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            self._end_workers()
        else:  # not in a thread of Ray's, whose calls would wait for it
            Thread(self._end_workers, name="pyisolate-ray", daemon=False).start()

    def _send(self, task: Task) -> Any:
        place = min(range(len(self._actors)), key=lambda one: self._load[one])
        reference = self._actors[place].run.remote(task)
        self._load[place] += 1
        theirs = reference.future()
        self._sent[theirs] = reference
        theirs.add_done_callback(lambda _done: self._left(place, theirs))
        return theirs

    def _cancel(self, theirs: Any) -> None:
        if (reference := self._sent.get(theirs)) is not None:
            ray.cancel(reference)  # what runs goes on

    def _left(self, place: int, theirs: Any) -> None:
        with self._changed:
            self._load[place] -= 1
            del self._sent[theirs]

    def _end_workers(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._running)
            ending, self._actors = self._actors, []
        if not ending or not ray.is_initialized():  # the cluster's owner was quicker
            return
        ray.wait([actor.close.remote() for actor in ending], num_returns=len(ending), timeout=_CLOSE_TIMEOUT_S)
        for actor in ending:
            ray.kill(actor)
