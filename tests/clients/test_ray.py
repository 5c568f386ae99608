"""A real Ray cluster on this machine: sandboxes in its actors, denials carried back, a worker killed in the middle."""

from __future__ import annotations

import collections
import contextlib
import importlib.util
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import pyisolate
from tests.clients.cluster_jobs import slow_reader
from tests.require import require

LEAKS = "the cluster's own processes and threads come and go; what the session leaves is looked at all the same"
pytestmark = [pytest.mark.timeout(300), pytest.mark.leaks(LEAKS)]


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    require("ray", importlib.util.find_spec("ray") is not None, "pip install ray")
    import ray

    options = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 80 << 20, "log_to_driver": False}
    for attempt in range(3):
        folder = tmp_path_factory.mktemp("r")  # below it are sockets, whose paths are short
        try:
            ray.init(**options, logging_level="ERROR", _temp_dir=str(folder), _node_ip_address="127.0.0.1")
            break
        except Exception as error:  # Ray waits 30 s for its own processes, which a busy machine may not have started
            end_those_of(folder)  # it forgets them
            if "timed out during startup" not in str(error) or attempt == 2:
                raise
    yield
    ray.shutdown()


def end_those_of(folder: Path) -> None:
    theirs = []
    for one in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if str(folder) in " ".join(one.cmdline()):
                one.kill()
                theirs.append(one)
    psutil.wait_procs(theirs, timeout=10)


@pytest.fixture(scope="module")
def seen() -> list[pyisolate.DenialEvent]:
    return []


@pytest.fixture(scope="module")
def executor(cluster: None, seen: list[pyisolate.DenialEvent]) -> Iterator[Any]:
    from pyisolate.integrations.ray_cluster import RayExecutor

    with RayExecutor(
        "compute",
        workers=2,
        tasks_per_worker=2,
        timeout=60,
        metrics=True,
        on_denials=seen.extend,
        supervisor={"pool_size": 2},
        ray_options={"num_cpus": 1},
    ) as made:
        yield made


def read(path: str) -> str:
    with open(path) as file:
        return file.read()


def worker_pids() -> set[int]:
    """Return Ray's processes of actors; what one starts has its command line until it runs a program of its own."""
    parents = {}
    for one in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "SandboxActor" in "".join(one.cmdline()):
                parents[one.pid] = one.ppid()
    return {pid for pid, parent in parents.items() if parent not in parents}


def test_functions_run_in_sandboxes_of_the_workers(executor: Any) -> None:
    assert list(executor.map(pow, range(6), range(6))) == [pow(n, n) for n in range(6)]
    assert executor.submit(lambda: __import__("os").getpid()).result(timeout=60) == 2  # process 2 of a cell


def test_what_was_refused_comes_back_once(executor: Any, seen: list[pyisolate.DenialEvent]) -> None:
    futures = [executor.submit(read, "/etc/passwd") for _ in range(4)]
    assert all(isinstance(future.exception(timeout=60), pyisolate.PolicyError) for future in futures)
    quiet = executor.submit(pow, 2, 8)
    assert (quiet.result(timeout=60), quiet.denials) == (256, ())
    assert all([event.target for event in future.denials] == ["/etc/passwd"] for future in futures)
    assert sorted(event.event_id for event in seen) == sorted(future.denials[0].event_id for future in futures)
    assert len({event.event_id for event in seen}) == 4
    texts = [urllib.request.urlopen(url, timeout=10).read().decode() for url in executor.metrics_urls()]
    assert sum(text.count("pyisolate_denials_total{") for text in texts) == 2, "each worker had a share of them"


def test_a_worker_killed_in_the_middle_loses_and_doubles_nothing(
    executor: Any, seen: list[pyisolate.DenialEvent]
) -> None:
    slow = slow_reader()
    seen.clear()
    futures = {f"/etc/nothing-{n}": executor.submit(slow, f"/etc/nothing-{n}") for n in range(16)}
    next(iter(futures.values())).result(timeout=60)
    workers = sorted(worker_pids())
    os.kill(workers[0], signal.SIGKILL)
    assert {path: future.result(timeout=90) for path, future in futures.items()} == {path: path for path in futures}
    assert collections.Counter(event.target for event in seen) == dict.fromkeys(futures, 1)
    assert len(workers) == 2


def test_a_worker_that_cannot_enforce_does_not_start() -> None:
    from pyisolate.integrations.ray_cluster import RayExecutor

    with RayExecutor("compute", supervisor={"pool_size": -1}, ray_options={"num_cpus": 0}) as executor:
        error = executor.submit(pow, 2, 2).exception(timeout=60)
    assert "pool_size" in str(error)


def test_the_workers_end_with_their_executor_once_their_tasks_are_done(executor: Any) -> None:
    from pyisolate.integrations.ray_cluster import RayExecutor

    executor.metrics_urls()  # its workers run
    before = worker_pids()
    ending = RayExecutor("compute", ray_options={"num_cpus": 0})
    future = ending.submit(lambda: __import__("time").sleep(0.5))
    ending.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="after shutdown"):
        ending.submit(pow, 2, 2)
    assert future.result(timeout=60) is None
    until = time.monotonic() + 60
    while (left := worker_pids() - before) and time.monotonic() < until:
        time.sleep(0.02)
    assert not left
    assert before <= worker_pids()  # another executor's
