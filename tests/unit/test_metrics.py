"""The counters are exact, outlive their sandboxes, and are cheap to scrape."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from telemetry_events import CONTEXT, broker, event, kernel

from pyisolate.capability import Capability
from pyisolate.decision import Verdict
from pyisolate.kernel.enforcer import CapabilityStatus, Coverage, EnforcementReport
from pyisolate.telemetry.counters import LABEL_VALUES_LIMIT, OTHER, CounterTable, DenialLabels
from pyisolate.telemetry.event import Evaluation
from pyisolate.telemetry.exposition import MetricsAddressError, asgi_app, serve_metrics, wsgi_app
from pyisolate.telemetry.merge import merge
from pyisolate.telemetry.metrics import METRICS, Metrics, SandboxRow, registry

NAMES = {
    "pyisolate_denials_total": {"capability", "code", "broker_decision", "kernel_decision", "mode", "policy"},
    "pyisolate_denial_events_lost_total": {"stage"},
    "pyisolate_denial_events_suppressed_total": {"policy"},
    "pyisolate_sandboxes": {"isolation", "state"},
    "pyisolate_sandbox_spawn_seconds_bucket": {"le"},
    "pyisolate_sandbox_spawn_seconds_count": set(),
    "pyisolate_sandbox_spawn_seconds_sum": set(),
    "pyisolate_sandbox_exits_total": {"reason"},
    "pyisolate_sandbox_cpu_seconds_total": {"policy"},
    "pyisolate_sandbox_memory_bytes": {"policy"},
    "pyisolate_policy_reloads_total": {"result"},
    "pyisolate_policy_drift_total": {"capability", "evaluation"},
    "pyisolate_audit_errors_total": set(),
    "pyisolate_webhook_dropped_total": {"reason"},
    "pyisolate_alert_active": {"alert"},
    "pyisolate_enforcement_info": {"isolation", "enforcement", "kernel", "fs", "net", "process", "complete"},
}


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = generate_latest(metrics.registry).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[name, tuple(sorted(labels.items()))]


class Host:
    """A supervisor, as far as the metrics need one."""

    def __init__(self, *rows: SandboxRow) -> None:
        self.rows = list(rows)

    def snapshot(self) -> list[SandboxRow]:
        return self.rows


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
    kept: list[object] = [Host(SandboxRow(sandbox_id="a", policy="p", cpu_s=1.5, memory_bytes=1024)), Alerts()]
    metrics.add_supervisor(kept[0])
    metrics.add_alerts(kept[1])
    metrics.denial(merge_disagreeing())
    metrics.suppressed.add(("p",))
    metrics.exited("closed", "p", 2.0, "b")
    metrics.reloads.add(("ok",))
    metrics.webhook_dropped.add(("expired",))
    metrics.spawned(0.003)
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


def test_a_supervisor_that_fails_or_is_gone_costs_nobody_the_scrape() -> None:
    metrics, _kept = filled()

    class Broken:
        def snapshot(self) -> list[SandboxRow]:
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


# -- counters kept elsewhere


class Kernel:
    enforcers = ("bpf-lsm", "cgroup-bpf")

    def __init__(self) -> None:
        self.counts: Counter[DenialLabels] = Counter()
        self.broken = False

    def read(self) -> Mapping[DenialLabels, int]:
        if self.broken:
            raise OSError("map is gone")
        return dict(self.counts)


def source_labels(capability: str = "fs.read") -> DenialLabels:
    return DenialLabels(capability, "NOT_GRANTED", "unavailable", "deny", "enforce", "p")


def kernel_event(count: int = 1, capability: str = "fs.read") -> object:
    return merge(CONTEXT, None, kernel(count=count, capability=Capability(capability), broker_consulted=False))


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("deny"), st.sampled_from(["fs.read", "net.connect"]), st.integers(1, 5)),
            st.tuples(st.just("deliver"), st.just(""), st.just(0)),
            st.tuples(st.just("lose"), st.just(""), st.just(0)),
            st.tuples(st.just("scrape"), st.just(""), st.just(0)),
        ),
        max_size=40,
    )
)
def test_kernel_counters_and_events_give_exact_totals_in_any_order(steps: list[tuple[str, str, int]]) -> None:
    metrics, source = Metrics(), Kernel()
    metrics.add_counter_source(source)
    queue: list[tuple[str, int]] = []
    before: dict[object, float] = {}
    for step, capability, count in steps:
        if step == "deny":
            source.counts[source_labels(capability)] += count
            queue.append((capability, count))
        elif step == "deliver" and queue:
            capability, count = queue.pop(0)
            metrics.denial(kernel_event(count, capability))
        elif step == "lose" and queue:
            queue.pop(0)
        elif step == "scrape":
            metrics._pull_sources()
            assert metrics.denials.total() == sum(source.counts.values())
        now = metrics.denials.values()
        assert all(now[labels] >= before[labels] for labels in before), "a counter fell"
        before = now
    for capability, count in queue:
        metrics.denial(kernel_event(count, capability))
    metrics.remove_counter_source(source)
    total = sum(source.counts.values())
    assert metrics.denials.total() == total
    metrics.denial(kernel_event(3))  # no source any more: counted by the event
    assert metrics.denials.total() == total + 3


def test_events_keep_their_own_labels_when_they_come_before_the_scrape() -> None:
    metrics, source = Metrics(), Kernel()
    metrics.add_counter_source(source)
    source.counts[source_labels()] = 5
    metrics.denial(kernel_event(2))
    metrics._pull_sources()
    by_broker = {labels[2]: n for labels, n in metrics.denials.values().items()}
    assert by_broker == {"not_consulted": 2, "unavailable": 3}


def test_other_enforcers_events_are_not_taken_for_the_sources() -> None:
    metrics, source = Metrics(), Kernel()
    metrics.add_counter_source(source)
    metrics.denial(event())
    metrics.denial(kernel_probed())
    metrics._pull_sources()
    assert metrics.denials.total() == 2


def kernel_probed() -> object:
    return merge(CONTEXT, broker(), kernel(evaluation=Evaluation.PROBED))


def test_a_source_that_starts_anew_or_fails_loses_nothing() -> None:
    metrics, source = Metrics(), Kernel()
    metrics.add_counter_source(source)
    source.counts[source_labels()] = 100
    metrics._pull_sources()
    source.counts[source_labels()] = 7  # the map was made anew
    metrics._pull_sources()
    source.broken = True
    metrics._pull_sources()
    assert metrics.denials.total() == 107


def test_two_sources_of_one_enforcer_add_up() -> None:
    metrics, one, two = Metrics(), Kernel(), Kernel()
    metrics.add_counter_source(one)
    metrics.add_counter_source(two)
    one.counts[source_labels()], two.counts[source_labels()] = 3, 4
    metrics.denial(kernel_event(2))
    metrics.denial(merge(CONTEXT, None, kernel(enforcer="cgroup-bpf")))
    metrics._pull_sources()
    assert metrics.denials.total() == 7


def test_lost_events_can_be_read_from_the_kernels_own_counter() -> None:
    metrics, dropped = Metrics(), [5]
    metrics.add_lost_source("kernel", lambda: dropped[0])
    metrics._pull_sources()
    dropped[0] = 9
    metrics._pull_sources()
    assert metrics.lost.value("kernel") == 9


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


def test_a_thousand_sandboxes_scrape_within_50_ms() -> None:
    metrics = Metrics()
    host = Host(*(SandboxRow(sandbox_id=f"s{n}", policy=f"p{n % 50}", cpu_s=n) for n in range(1000)))
    metrics.add_supervisor(host)
    for number in range(1000):
        metrics.denials.add(source_labels()._replace(policy=f"p{number % 50}", capability=f"c{number}"))
    generate_latest(metrics.registry)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        generate_latest(metrics.registry)
        times.append(time.perf_counter() - started)
    assert min(times) < 0.05


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
