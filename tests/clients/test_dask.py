"""A real cluster of worker processes: sandboxes on each, denials carried back, a worker killed in the middle."""

from __future__ import annotations

import collections
import importlib.util
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import Any

import pytest

import pyisolate
from tests.clients.cluster_jobs import slow_reader
from tests.require import require

LEAKS = "the cluster's own processes and threads come and go; what the session leaves is looked at all the same"
pytestmark = [pytest.mark.timeout(180), pytest.mark.leaks(LEAKS)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    require("dask", importlib.util.find_spec("distributed") is not None, "pip install distributed")
    from distributed import Client, LocalCluster

    from pyisolate.integrations.dask_cluster import SandboxPlugin

    with (
        LocalCluster(
            n_workers=2, threads_per_worker=2, processes=True, dashboard_address=None, resources={"sandboxes": 2}
        ) as made,
        Client(made) as client,
    ):
        client.register_plugin(SandboxPlugin(pool_size=2, metrics=True))
        yield client
    resource_tracker._resource_tracker._stop()  # started for the workers; ends with this process otherwise


@pytest.fixture
def executor(cluster: Any) -> Iterator[Any]:
    from pyisolate.integrations.dask_cluster import ClusterExecutor

    with ClusterExecutor(cluster, "compute", timeout=30) as made:
        yield made


def test_functions_run_in_sandboxes_of_the_workers(executor: Any) -> None:
    assert list(executor.map(pow, range(6), range(6))) == [pow(n, n) for n in range(6)]
    where = executor.submit(lambda: __import__("os").getpid())
    assert where.result(timeout=60) == 2  # process 2 of a cell


def test_what_was_refused_comes_back_once(cluster: Any) -> None:
    from pyisolate.integrations.dask_cluster import ClusterExecutor

    seen: list[str] = []
    with ClusterExecutor(
        cluster, "compute", on_denials=lambda events: seen.extend(event.event_id for event in events)
    ) as executor:
        futures = [executor.submit(read, "/etc/passwd") for _ in range(4)]
        errors = [future.exception(timeout=60) for future in futures]
        quiet = executor.submit(pow, 2, 8)
        assert (quiet.result(timeout=60), quiet.denials) == (256, ())
    assert all(isinstance(error, pyisolate.PolicyError) for error in errors)
    assert all([event.target for event in future.denials] == ["/etc/passwd"] for future in futures)
    assert sorted(seen) == sorted(event.event_id for future in futures for event in future.denials)
    assert len(set(seen)) == 4


def test_the_submitters_trace_is_that_of_the_workers_events(executor: Any) -> None:
    require("otel", importlib.util.find_spec("opentelemetry.sdk") is not None, "pip install opentelemetry-sdk")
    from opentelemetry.sdk.trace import TracerProvider

    traces = TracerProvider(shutdown_on_exit=False)
    pyisolate.set_tracer_provider(traces)
    try:
        with traces.get_tracer("test").start_as_current_span("job") as span:
            traced = executor.submit(read, "/etc/passwd")
        untraced = executor.submit(read, "/etc/passwd")  # the control
        for future in (traced, untraced):
            assert isinstance(future.exception(timeout=60), pyisolate.PolicyError)
    finally:
        pyisolate.set_tracer_provider(None)
    assert f"-{span.get_span_context().trace_id:032x}-" in str(traced.denials[0].traceparent)
    assert untraced.denials[0].traceparent is None


def read(path: str) -> str:
    with open(path) as file:
        return file.read()


def test_limits_and_grants_are_the_policys(cluster: Any) -> None:
    from pyisolate.integrations.dask_cluster import ClusterExecutor

    policy = pyisolate.Policy.preset("compute").allow_read("/etc/hostname").with_limits(memory="64MiB")
    with ClusterExecutor(cluster, policy, resources={"sandboxes": 1}) as executor:
        assert executor.submit(read, "/etc/hostname").result(timeout=60)
        error = executor.submit(bytearray, 1 << 30).exception(timeout=60)
        assert isinstance(error, pyisolate.MemoryExceeded | pyisolate.GuestError)


def test_each_worker_serves_its_counters(cluster: Any, executor: Any) -> None:
    from pyisolate.integrations.dask_cluster import metrics_urls

    executor.submit(read, "/etc/passwd").exception(timeout=60)
    texts = [urllib.request.urlopen(url, timeout=10).read().decode() for url in metrics_urls(cluster).values()]
    assert len(texts) == 2
    assert "pyisolate_denials_total{" in "".join(texts)


def test_a_worker_killed_in_the_middle_loses_and_doubles_nothing(cluster: Any) -> None:
    from pyisolate.integrations.dask_cluster import ClusterExecutor

    slow = slow_reader()
    counted: collections.Counter[str] = collections.Counter()
    with ClusterExecutor(
        cluster, "compute", on_denials=lambda events: counted.update(event.target for event in events)
    ) as executor:
        futures = {f"/etc/nothing-{n}": executor.submit(slow, f"/etc/nothing-{n}") for n in range(20)}
        time.sleep(0.5)
        victim = next(iter(cluster.scheduler_info(n_workers=-1)["workers"]))
        killed = cluster.run(os.getpid, workers=[victim])[victim]
        os.kill(killed, signal.SIGKILL)
        assert {path: future.result(timeout=90) for path, future in futures.items()} == {path: path for path in futures}
    assert counted == dict.fromkeys(futures, 1)
    cluster.wait_for_workers(2, timeout=60)


def test_a_worker_without_the_plugin_says_so() -> None:
    require("dask", importlib.util.find_spec("distributed") is not None, "pip install distributed")
    from distributed import Client, LocalCluster

    from pyisolate.integrations.dask_cluster import ClusterExecutor

    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=None) as made,
        Client(made) as client,
        ClusterExecutor(client, "compute") as executor,
    ):
        error = executor.submit(pow, 2, 2).exception(timeout=60)
    assert isinstance(error, pyisolate.SandboxError)
    assert "register_plugin" in str(error)
