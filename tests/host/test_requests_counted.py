"""Requests and spawns of real sandboxes are counted once each, by how they ended and where their cell came from."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

import pyisolate
from pyisolate.telemetry.metrics import Metrics
from pyisolate.telemetry.recorder import Recorder
from pyisolate.telemetry.shared_metrics import SharedMetrics

POLICY = pyisolate.Policy.preset("compute").with_name("counted")


def counted(metrics: Metrics, name: str, label: str) -> dict[str, float]:
    """Return a sample of every series that is not zero, by the value of its label."""
    families = (sample for family in metrics.registry.collect() for sample in family.samples)
    return {s.labels[label]: s.value for s in families if s.name == name and s.value}


def outcomes(metrics: Metrics) -> dict[str, float]:
    return counted(metrics, "pyisolate_exec_seconds_count", "outcome")


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_requests_are_counted_by_how_they_ended(isolation: str) -> None:
    metrics = Metrics()
    with (
        pyisolate.Supervisor(pool_size=1, recorder=Recorder(metrics=metrics, sinks=())) as supervisor,
        supervisor.spawn("guest", POLICY, isolation=isolation, enforcement="best_effort") as sandbox,
    ):
        sandbox.exec("x = 1")
        assert sandbox.eval("x") == 1
        with pytest.raises(pyisolate.GuestError):
            sandbox.exec("1 / 0")
        with pytest.raises(pyisolate.PolicyError):
            sandbox.exec("open('/etc/passwd')")
        with pytest.raises(pyisolate.TimeoutError):
            sandbox.exec("while True: pass", timeout=0.2)
        sandbox.close()
        with pytest.raises(pyisolate.SandboxClosed):
            sandbox.exec("x")  # it was never sent
    assert outcomes(metrics) == {"returned": 2, "raised": 1, "refused": 1, "limit": 1}
    took = counted(metrics, "pyisolate_exec_seconds_sum", "outcome")
    assert took["limit"] >= 0.2


def test_spawns_are_counted_by_where_their_cell_came_from() -> None:
    metrics = Metrics()
    spawned = 0
    with (
        pyisolate.Supervisor(pool_size=2, recorder=Recorder(metrics=metrics, sinks=())) as supervisor,
        contextlib.ExitStack() as held,
    ):
        for number in range(8):  # more at once than the pool holds
            held.enter_context(supervisor.spawn(f"guest-{number}", POLICY)).exec("1")
            spawned += 1
        cells = counted(metrics, "pyisolate_pool_cells", "state")
    found = counted(metrics, "pyisolate_pool_spawns_total", "source")
    assert sum(found.values()) == spawned
    assert set(found) <= {"standby", "warm", "forked"}
    assert sum(cells.values()) <= 4
    assert outcomes(metrics) == {"returned": spawned}


@pytest.mark.slow
def test_a_pool_that_keeps_no_cell_forks_each() -> None:
    metrics = Metrics()
    with pyisolate.Supervisor(pool_size=0, recorder=Recorder(metrics=metrics, sinks=())) as supervisor:
        for number in range(2):
            with supervisor.spawn(f"guest-{number}", POLICY):
                pass
    assert counted(metrics, "pyisolate_pool_spawns_total", "source") == {"forked": 2}


def _work(metrics: Metrics, ready: int, end: int) -> None:
    """Serve one guest in a forked worker, and live on until it is killed."""
    with (
        pyisolate.Supervisor(pool_size=1, recorder=Recorder(metrics=metrics, sinks=())) as supervisor,
        supervisor.spawn("guest", POLICY) as sandbox,
    ):
        with contextlib.suppress(pyisolate.PolicyError):
            sandbox.exec("open('/etc/passwd')")
        sandbox.exec("print('x')")
        generate_latest(metrics.exposed)  # gauges are written when they are read, or every few seconds
        os.write(ready, b"x")
        os.read(end, 1)


@pytest.mark.slow
def test_forked_workers_are_scraped_as_one_and_a_killed_one_loses_no_count(tmp_path: Path) -> None:
    metrics = Metrics(SharedMetrics(str(tmp_path)))
    (ready, told), (end, hold) = os.pipe(), os.pipe()
    workers = []
    for _ in range(2):
        workers.append(os.fork())
        if workers[-1] == 0:
            try:
                os.close(hold)
                _work(metrics, told, end)
            finally:
                os._exit(0)
    os.close(told)
    try:
        assert os.read(ready, 1) + os.read(ready, 1) == b"xx"
        os.kill(workers[0], signal.SIGKILL)
        os.waitpid(workers.pop(0), 0)
        with pyisolate.serve_metrics(0, registry=metrics.exposed) as server, urlopen(server.url, timeout=5) as answer:
            text = answer.read().decode()
    finally:
        os.close(hold)
        for pid in workers:
            os.waitpid(pid, 0)
        for descriptor in (ready, end):
            os.close(descriptor)
        metrics.close()
        with pyisolate.Supervisor(pool_size=0):
            pass  # it removes the control groups of the killed worker
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert sum(s.value for s in families["pyisolate_denials"].samples if s.labels["capability"] == "fs.read") == 2
    counts = {s.labels["outcome"]: s.value for s in families["pyisolate_exec_seconds"].samples if "_count" in s.name}
    assert counts == {"refused": 2, "returned": 2}
    assert sum(s.value for s in families["pyisolate_sandboxes"].samples) == 1  # the other died with its worker
