"""The counters are exact, outlive their sandboxes, and are cheap to scrape."""

from __future__ import annotations

import asyncio
import os
import platform
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_open_metrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics_families
from prometheus_client.parser import text_string_to_metric_families

import pyisolate
from pyisolate.capability import Capability
from pyisolate.decision import Verdict
from pyisolate.enforcement import CapabilityStatus, Coverage, EnforcementReport
from pyisolate.metrics import MetricsAddressError, asgi_app, registry, serve_metrics, wsgi_app
from pyisolate.telemetry.counters import LABEL_VALUES_LIMIT, OTHER, CounterTable
from pyisolate.telemetry.merge import merge
from pyisolate.telemetry.metrics import METRICS, Metrics, SandboxRow
from tests.telemetry_events import CONTEXT, event, kernel

NAMES = {
    "pyisolate_denials_total": {"capability", "code", "broker_decision", "kernel_decision", "mode", "policy"},
    "pyisolate_denial_events_lost_total": {"stage"},
    "pyisolate_denial_events_suppressed_total": {"policy"},
    "pyisolate_sandboxes": {"isolation", "state"},
    "pyisolate_sandbox_spawn_seconds_bucket": {"le"},
    "pyisolate_sandbox_spawn_seconds_count": set(),
    "pyisolate_sandbox_spawn_seconds_sum": set(),
    "pyisolate_exec_seconds_bucket": {"le", "outcome"},
    "pyisolate_exec_seconds_count": {"outcome"},
    "pyisolate_exec_seconds_sum": {"outcome"},
    "pyisolate_pool_cells": {"state"},
    "pyisolate_pool_spawns_total": {"source"},
    "pyisolate_sandbox_exits_total": {"reason"},
    "pyisolate_sandbox_cpu_seconds_total": {"policy"},
    "pyisolate_host_held_seconds_total": {"policy"},
    "pyisolate_sandbox_memory_bytes": {"policy"},
    "pyisolate_policy_reloads_total": {"result"},
    "pyisolate_host_calls_total": {"policy", "outcome"},
    "pyisolate_questions_total": {"policy", "answer"},
    "pyisolate_egress_requests_total": {"policy", "outcome"},
    "pyisolate_egress_bytes_total": {"policy", "direction"},
    "pyisolate_egress_connections": {"policy"},
    "pyisolate_policy_drift_total": {"capability", "evaluation"},
    "pyisolate_audit_errors_total": set(),
    "pyisolate_webhook_dropped_total": {"reason"},
    "pyisolate_alert_active": {"alert"},
    "pyisolate_build_info": {"version", "python"},
    "pyisolate_enforcement_info": {"isolation", "enforcement", "kernel", "fs", "net", "process", "complete"},
}


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = generate_latest(metrics.registry).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[name, tuple(sorted(labels.items()))]


class Host:
    """A supervisor, as far as the metrics need one."""

    def __init__(self, *rows: SandboxRow) -> None:
        self.rows = list(rows)

    def snapshot(self) -> list[SandboxRow]:
        return self.rows

    def cells(self) -> dict[str, int]:
        return {"ready": 3, "standby": 1, "starting": 0}


class Alerts:
    def active(self) -> Mapping[str, bool]:
        return {"A": True, "B": False}


REPORT = EnforcementReport(
    isolation="process",
    enforcement="strict",
    kernel="6.18.0",
    capabilities=(
        CapabilityStatus(capability=Capability.FS_READ, coverage=Coverage.FULL, enforcers=("landlock",)),
        CapabilityStatus(capability=Capability.FS_WRITE, coverage=Coverage.FULL, enforcers=("landlock", "root-view")),
    ),
)


def filled() -> tuple[Metrics, list[object]]:
    metrics = Metrics()
    row = SandboxRow(sandbox_id="a", policy="p", cpu_s=1.5, memory_bytes=1024, egress_connections=2)
    kept: list[object] = [Host(row), Alerts()]
    metrics.add_supervisor(kept[0])
    metrics.add_alerts(kept[1])
    metrics.denial(merge_disagreeing())
    metrics.suppressed.add(("p",))
    metrics.exited("closed", "p", 2.0, "b")
    metrics.reloads.add(("ok",))
    metrics.host_calls.add(("p", "returned"))
    metrics.questions.add(("p", "once"))
    metrics.egress_requests.add(("p", "granted"))
    metrics.egress_bytes.add(("p", "sent"), 10)
    metrics.webhook_dropped.add(("expired",))
    metrics.spawned(0.003)
    metrics.requested(0.02, "returned")
    metrics.set_enforcement(REPORT)
    return metrics, kept


def merge_disagreeing() -> object:
    return merge(CONTEXT, None, kernel(broker_consulted=True, slot_verdict=Verdict.ALLOW))


def test_the_names_and_labels_are_the_contracts_and_no_others() -> None:
    metrics, _kept = filled()
    found: dict[str, set[str]] = {}
    for name, labels in samples(metrics):
        found.setdefault(name, set()).update(key for key, _ in labels)
    assert found == NAMES


def test_build_info_names_the_version_that_runs() -> None:
    labels = {"version": pyisolate.__version__, "python": platform.python_version()}
    assert value(Metrics(), "pyisolate_build_info", **labels) == 1


def test_enforcement_info_names_the_enforcers() -> None:
    metrics, _kept = filled()
    labels = {"fs": "landlock+root-view", "net": "none", "process": "none", "complete": "true", "kernel": "6.18.0"}
    assert value(metrics, "pyisolate_enforcement_info", isolation="process", enforcement="strict", **labels) == 1


def test_counts_of_a_coalesced_event_are_all_counted() -> None:
    metrics = Metrics()
    metrics.denial(event(count=41))
    metrics.denial(event())
    assert metrics.denials.total() == 42


def test_processor_time_outlives_the_sandbox_and_is_never_counted_twice() -> None:
    metrics, host = Metrics(), Host(SandboxRow(sandbox_id="a", policy="p", cpu_s=3.0))
    metrics.add_supervisor(host)

    def cpu() -> float:
        return value(metrics, "pyisolate_sandbox_cpu_seconds_total", policy="p")

    assert cpu() == 3.0
    metrics.exited("closed", "p", 3.5, "a")
    assert cpu() == 3.5  # the row is still there: a snapshot taken just before the end
    host.rows.clear()
    assert cpu() == 3.5
    host.rows.append(SandboxRow(sandbox_id="b", policy="p", cpu_s=1.0))
    assert cpu() == 4.5
    metrics.remove_supervisor(host)
    assert cpu() == 4.5


def test_time_for_which_guests_were_held_outlives_them_too() -> None:
    metrics, host = Metrics(), Host(SandboxRow(sandbox_id="a", policy="p", cpu_s=9.0, host_held_s=0.5))
    metrics.add_supervisor(host)
    assert value(metrics, "pyisolate_host_held_seconds_total", policy="p") == 0.5
    metrics.exited("closed", "p", 9.0, "a", 0.75)
    assert value(metrics, "pyisolate_host_held_seconds_total", policy="p") == 0.75
    assert value(metrics, "pyisolate_sandbox_cpu_seconds_total", policy="p") == 9.0


def test_a_supervisor_that_fails_or_is_gone_costs_nobody_the_scrape() -> None:
    metrics, _kept = filled()

    class Broken:
        def snapshot(self) -> list[SandboxRow]:
            raise RuntimeError("closing")

        def cells(self) -> dict[str, int]:
            raise RuntimeError("closing")

    broken = Broken()
    metrics.add_supervisor(broken)
    metrics.add_supervisor(Host(SandboxRow(sandbox_id="z", policy="gone")))  # dies at once: held weakly
    assert value(metrics, "pyisolate_sandboxes", isolation="process", state="running") == 1


def test_policy_names_cannot_blow_up_the_labels() -> None:
    metrics = Metrics()
    for number in range(LABEL_VALUES_LIMIT + 50):
        metrics.suppressed.add((f"p{number}",))
    assert len(metrics.suppressed.values()) == LABEL_VALUES_LIMIT + 1
    assert metrics.suppressed.value(OTHER) == 50
    assert metrics.suppressed.total() == LABEL_VALUES_LIMIT + 50


def test_a_label_can_hold_any_text() -> None:
    metrics = Metrics()
    metrics.denial(event(msgspec.structs.replace(CONTEXT, policy='a"b\\c\nd\udc80')))
    assert any(dict(labels).get("policy") == 'a"b\\\\c\\x0ad\\x80' for _, labels in samples(metrics))


def open_metrics(metrics: Metrics) -> list[Any]:
    text = generate_open_metrics(metrics.registry).decode()
    return [sample for family in open_metrics_families(text) for sample in family.samples]


def test_every_counter_says_when_it_began_and_histograms_too(monkeypatch: pytest.MonkeyPatch) -> None:
    before = time.time()
    metrics, _kept = filled()
    found = open_metrics(metrics)
    ends = ("_total", "_count")
    counted = {(s.name.rsplit("_", 1)[0], *sorted(s.labels.items())) for s in found if s.name.endswith(ends)}
    created = {(s.name.rsplit("_", 1)[0], *sorted(s.labels.items())): s.value for s in found if "_created" in s.name}
    assert created.keys() == counted
    assert all(before - 1 <= value <= time.time() for value in created.values())
    monkeypatch.setenv("PROMETHEUS_DISABLE_CREATED_SERIES", "true")
    assert not [s for s in open_metrics(metrics) if "_created" in s.name]


def test_a_count_of_denials_names_the_last_event() -> None:
    metrics, first, last = Metrics(), event(), event(count=3)
    metrics.denial(first)
    metrics.denial(last)
    (sample,) = (s for s in open_metrics(metrics) if s.name == "pyisolate_denials_total")
    assert sample.exemplar is not None
    assert (sample.exemplar.labels, sample.exemplar.value) == ({"event_id": last.event_id}, 3)
    assert sample.value == 4


def test_cells_of_all_supervisors_are_summed() -> None:
    metrics, one, other = Metrics(), Host(), Host()
    metrics.add_supervisor(one)
    metrics.add_supervisor(other)
    found = {state: value(metrics, "pyisolate_pool_cells", state=state) for state in ("ready", "standby", "starting")}
    assert found == {"ready": 6, "standby": 2, "starting": 0}


def test_every_request_is_in_one_bucket_of_its_outcome() -> None:
    metrics = Metrics()
    for seconds in (0.00005, 0.3, 1000.0):
        metrics.requested(seconds, "limit")

    def below(end: str) -> float:
        return value(metrics, "pyisolate_exec_seconds_bucket", outcome="limit", le=end)

    assert [below(end) for end in ("0.0001", "0.25", "1.0", "300.0", "+Inf")] == [1, 1, 2, 2, 3]
    assert value(metrics, "pyisolate_exec_seconds_sum", outcome="limit") == pytest.approx(1000.30005)


def test_the_page_lists_every_metric_with_its_labels() -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `(pyisolate_\w+)` \| (\w+) \| ([^|]*)\|", page, re.M)
    documented = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    metrics, _kept = filled()
    real: dict[str, tuple[str, set[str]]] = {}
    for family in metrics.registry.collect():
        labels = {key for sample in family.samples for key in sample.labels} - {"le"}
        real[family.name + ("_total" if family.type == "counter" else "")] = (family.type, labels)
    assert documented == real


# -- tables


def test_threads_count_exactly() -> None:
    table = CounterTable("x_total", "x", ("a",))
    threads = [
        threading.Thread(target=lambda: [table.add((str(n % 3),)) for n in range(20_000)] and None) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert table.total() == 80_000


# -- serving


def get(url: str) -> tuple[int, str, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"] or "", error.read().decode()


def test_serving_on_a_free_port_until_closed() -> None:
    metrics, _kept = filled()
    with serve_metrics(0, registry=metrics.registry) as server:
        assert server.port > 0
        status, kind, text = get(server.url)
        assert (status, kind.split(";")[0]) == (200, "text/plain")
        assert "pyisolate_denials_total{" in text
        assert get(server.url.replace("/metrics", "/etc/passwd"))[0] == 404
        with pytest.raises(MetricsAddressError, match="in use") as caught:
            serve_metrics(server.port)
        assert isinstance(caught.value, OSError)
        with serve_metrics(0, "::1", registry=metrics.registry) as six:
            assert get(six.url)[0] == 200
    with pytest.raises(urllib.error.URLError):
        get(server.url)
    server.close()
    with serve_metrics(server.port) as again:  # the port is free at once
        assert again.port == server.port


def test_open_metrics_is_spoken_when_asked_for() -> None:
    metrics, _kept = filled()
    with serve_metrics(0, registry=metrics.registry) as server:
        request = urllib.request.Request(server.url, headers={"Accept": "application/openmetrics-text; version=1.0.0"})
        with urllib.request.urlopen(request, timeout=5) as answer:
            assert "openmetrics" in answer.headers["Content-Type"]
            assert answer.read().decode().endswith("# EOF\n")


def test_clients_that_hang_take_no_more_than_their_share() -> None:
    import socket

    with serve_metrics(0) as server:
        stuck = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(40)]
        try:
            time.sleep(0.3)
            names = [t.name for t in threading.enumerate() if "process_request" in t.name]
            assert len(names) <= 16
            for one in stuck:
                one.close()
            time.sleep(0.3)
            assert get(server.url)[0] == 200
        finally:
            for one in stuck:
                one.close()


def test_wsgi_and_asgi() -> None:
    metrics, _kept = filled()
    started: list[str] = []
    body = b"".join(
        wsgi_app(metrics.registry)(
            {"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics", "QUERY_STRING": ""},
            lambda status, headers: started.append(status),
        )
    )
    assert started == ["200 OK"]
    assert b"pyisolate_denials_total" in body
    sent: list[dict[str, object]] = []

    async def run() -> None:
        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, object]) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/metrics", "query_string": b"", "headers": []}
        await asgi_app(metrics.registry)(scope, receive, send)

    asyncio.run(run())
    assert sent[0]["status"] == 200
    assert b"pyisolate_denials_total" in sent[1]["body"]


def test_series_grow_with_policies_and_not_with_sandboxes() -> None:
    def lines(sandboxes: int) -> int:
        metrics = Metrics()
        host = Host(*(SandboxRow(sandbox_id=f"s{n}", policy=f"p{n % 10}", cpu_s=n) for n in range(sandboxes)))
        metrics.add_supervisor(host)
        return len(generate_latest(metrics.registry).splitlines())

    assert lines(1) < lines(10) == lines(1000)


def test_a_forked_child_starts_from_zero_and_frees_the_port() -> None:
    with serve_metrics(0) as server:
        METRICS.reloads.add(("ok",), 5)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(write, b"%d" % METRICS.reloads.value("ok"))
                os.read(os.open("/dev/null", os.O_RDONLY), 1)
                time.sleep(0.3)
                os._exit(0)
            except BaseException:
                os._exit(1)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            first = pipe.read(1)
        port = server.port
    with serve_metrics(port) as again:  # the child holds no copy of the listening socket
        assert again.port == port
    assert os.waitpid(child, 0)[1] == 0
    assert first == b"0"
    assert METRICS.reloads.value("ok") >= 5
    assert registry is METRICS.registry
