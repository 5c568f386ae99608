"""Processes of one service are scraped as one, and what a killed one counted stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from pyisolate.telemetry.metrics import Metrics, SandboxRow
from pyisolate.telemetry.shared_metrics import SharedMetrics
from tests.telemetry_events import event


class Host:
    """A supervisor with one sandbox, as far as the metrics need one."""

    def __init__(self) -> None:
        self.row = SandboxRow(sandbox_id=f"s-{os.getpid()}", policy="p", cpu_s=1.5, memory_bytes=1024)

    def snapshot(self) -> list[SandboxRow]:
        return [self.row]

    def cells(self) -> dict[str, int]:
        return {"ready": 2, "standby": 0, "starting": 0}


def sums(registry: CollectorRegistry) -> dict[str, float]:
    """Return each sample's sum over its series."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


def served(metrics: Metrics, denials: int) -> Host:
    """Let a process count something of everything; return its supervisor."""
    host = Host()
    metrics.add_supervisor(host)
    for _ in range(denials):
        metrics.denial(event())
    metrics.requested(0.02, "returned")
    metrics.pool_spawns.add(("warm",))
    return host


class Worker:
    """A forked process with metrics of its own; lives until it is killed or told to end."""

    def __init__(self, metrics: Metrics, work: Callable[[], object]) -> None:
        ready, told = os.pipe()
        self._hold, end = os.pipe()[::-1]
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self._hold)
                kept = work()
                os.write(told, b"x")
                os.read(end, 1)
                del kept
            finally:
                os._exit(0)
        os.close(told)
        os.close(end)
        assert os.read(ready, 1) == b"x"
        os.close(ready)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._hold)


@pytest.fixture
def metrics(tmp_path: Path) -> Iterator[Metrics]:
    made = Metrics(SharedMetrics(str(tmp_path)))
    yield made
    made.close()


@pytest.fixture
def workers() -> Iterator[list[Worker]]:
    made: list[Worker] = []
    yield made
    for worker in made:
        worker.kill()


def test_processes_are_shown_as_one_and_a_killed_ones_counts_stay(
    metrics: Metrics, workers: list[Worker], tmp_path: Path
) -> None:
    killed = Worker(metrics, lambda: served(metrics, 3))
    workers.append(Worker(metrics, lambda: served(metrics, 4)))
    both = sums(metrics.exposed)
    assert both["pyisolate_denials_total"] == 7
    assert both["pyisolate_exec_seconds_count"] == 2
    assert both["pyisolate_exec_seconds_bucket"] > 2  # of every bucket above
    assert both["pyisolate_sandbox_cpu_seconds_total"] == 3
    assert (both["pyisolate_sandboxes"], both["pyisolate_pool_cells"]) == (2, 4)
    assert both["pyisolate_build_info"] == 1
    killed.kill()
    left = sums(metrics.exposed)
    assert left["pyisolate_denials_total"] == 7
    assert left["pyisolate_sandbox_cpu_seconds_total"] == 3
    assert (left["pyisolate_sandboxes"], left["pyisolate_pool_cells"]) == (1, 2)
    standard = CollectorRegistry()
    MultiProcessCollector(standard, path=str(tmp_path))  # what a service of several processes has already
    assert sums(standard) == left


def test_a_new_process_counts_on_in_the_file_of_a_dead_one(metrics: Metrics, tmp_path: Path) -> None:
    for _ in range(5):
        Worker(metrics, lambda: served(metrics, 2)).kill()
    assert len(list(tmp_path.glob("counter_*.db"))) == 1
    assert sums(metrics.exposed)["pyisolate_denials_total"] == 10


def test_the_process_itself_is_among_them_and_its_own_registry_shows_it_alone(
    metrics: Metrics, workers: list[Worker]
) -> None:
    host = served(metrics, 1)
    workers.append(Worker(metrics, lambda: served(metrics, 5)))
    assert sums(metrics.exposed)["pyisolate_denials_total"] == 6
    assert sums(metrics.registry)["pyisolate_denials_total"] == 1
    assert sums(metrics.exposed)["pyisolate_sandboxes"] == 2
    metrics.remove_supervisor(host)
    assert sums(metrics.exposed)["pyisolate_sandboxes"] == 1
    assert sums(metrics.exposed)["pyisolate_sandbox_cpu_seconds_total"] == 3


def test_threads_count_exactly(metrics: Metrics) -> None:
    import threading

    def count() -> None:
        for _ in range(500):
            metrics.reloads.add(("done",))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sums(metrics.exposed)["pyisolate_policy_reloads_total"] == 2000


def test_more_series_than_were_reserved_are_kept(metrics: Metrics) -> None:
    for number in range(900):
        metrics.host_calls.add(("p" * 1000 + str(number), "returned"))
    assert sums(metrics.exposed)["pyisolate_host_calls_total"] == 900


def test_a_directory_that_cannot_be_used_is_logged_once_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = Metrics(SharedMetrics(str(tmp_path / "missing")))
    host = served(metrics, 2)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "PROMETHEUS_MULTIPROC_DIR" in caplog.text
    assert sums(metrics.exposed)["pyisolate_denials_total"] == 2
    metrics.remove_supervisor(host)
    metrics.close()


def test_the_variable_turns_it_on(metrics: Metrics, tmp_path: Path) -> None:
    program = "from pyisolate.metrics import METRICS\nMETRICS.reloads.add(('done',))"
    for _ in range(2):
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
            check=True,
            timeout=60,
        )
    assert sums(metrics.exposed)["pyisolate_policy_reloads_total"] == 2
