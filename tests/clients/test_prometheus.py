"""A real Prometheus scrapes a real endpoint: names are clean, rules fire, every dashboard query has an answer."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyisolate.capability import Capability
from pyisolate.decision import Verdict
from pyisolate.enforcement import CapabilityStatus, Coverage, EnforcementReport
from pyisolate.metrics import MetricsServer, serve_metrics
from pyisolate.telemetry.alerts import AlertEngine, default_rules
from pyisolate.telemetry.merge import merge
from pyisolate.telemetry.metrics import Metrics, SandboxRow
from pyisolate.telemetry.recorder import Recorder
from tests.prometheus_server import PROMTOOL, Prometheus
from tests.telemetry_events import CONTEXT, broker, event, kernel

MONITORING = Path(__file__).parents[2] / "docs" / "monitoring"

pytestmark = pytest.mark.leaks("one Prometheus and one metrics server serve all tests of this module")


class Process:
    """A host process with everything that it can show."""

    def __init__(self) -> None:
        self.number = itertools.count()
        self.metrics = Metrics()
        self.engine = AlertEngine(default_rules())
        self.recorder = Recorder(metrics=self.metrics, sinks=(), alerts=self.engine)
        self.metrics.add_supervisor(self)
        self.metrics.set_enforcement(
            EnforcementReport(
                isolation="process",
                enforcement="best_effort",
                kernel="6.18.0",
                capabilities=(
                    CapabilityStatus(capability=Capability.FS_READ, coverage=Coverage.FULL, enforcers=("landlock",)),
                ),
                missing=("net",),
            )
        )
        self.recorder.open(CONTEXT)

    def snapshot(self) -> list[SandboxRow]:
        return [SandboxRow(sandbox_id="s-1", policy="p", cpu_s=2.5, memory_bytes=1 << 20)]

    def cells(self) -> dict[str, int]:
        return {"ready": 3, "standby": 1, "starting": 0}

    def work(self) -> None:
        for _ in range(3):
            self.recorder.record(event())
        self.recorder.record(event(verdict=Verdict.WOULD_DENY))
        self.metrics.suppressed.add(("p",))
        self.metrics.webhook_dropped.add(("expired",))
        self.metrics.audit_errors.add()
        self.metrics.reloads.add(("done",))
        self.metrics.spawned(0.0004)
        self.metrics.pool_spawns.add(("warm",))
        self.metrics.requested(0.02, "returned")
        self.metrics.exited("closed", "p", 0.5, f"gone-{next(self.number)}")

    def misbehave(self) -> None:
        for _ in range(12):
            self.recorder.record(event(target="/etc/passwd"))
        self.recorder.record(merge(CONTEXT, None, kernel(broker_consulted=False)))
        self.recorder.record(merge(CONTEXT, broker(verdict=Verdict.ALLOW, errno=13), kernel()))
        self.recorder.lost("kernel", 3)


@pytest.fixture(scope="module")
def host() -> Iterator[tuple[Process, MetricsServer]]:
    process = Process()
    process.work()
    with serve_metrics(0, registry=process.metrics.registry) as server:
        yield process, server
    process.recorder.shutdown()


@pytest.fixture(scope="module")
def prometheus(host: tuple[Process, MetricsServer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    server = Prometheus(tmp_path_factory.mktemp("prometheus"), host[1].port, MONITORING / "alerts.yml")
    yield server
    server.close()


def promtool(*arguments: str, text: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    assert PROMTOOL is not None
    return subprocess.run([PROMTOOL, *arguments], input=text, capture_output=True, check=False, timeout=60)


def scrape(server: MetricsServer) -> bytes:
    with urllib.request.urlopen(server.url, timeout=5) as answer:
        data: bytes = answer.read()
        return data


def test_promtool_finds_nothing_to_complain_about(host: tuple[Process, MetricsServer]) -> None:
    text = scrape(host[1])
    done = promtool("check", "metrics", text=text)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    spoilt = promtool("check", "metrics", text=text.replace(b"pyisolate_denials_total", b"pyisolate_denials"))
    assert spoilt.returncode != 0  # the check would notice


@pytest.mark.parametrize("command", [("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")])
def test_the_rules_pass_promtool(command: tuple[str, ...]) -> None:
    done = promtool(*command[:2], str(MONITORING / command[2]))
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


def test_the_rules_of_the_process_and_of_prometheus_are_the_same() -> None:
    text = (MONITORING / "alerts.yml").read_text()
    named = set(re.findall(r"- alert: (\w+)", text.split("pyisolate-health")[0]))
    assert named == {rule.name for rule in default_rules()}


def test_an_alert_really_fires(prometheus: Prometheus, host: tuple[Process, MetricsServer]) -> None:
    process, _server = host
    quiet = {"BrokerBypassed", "LayersDisagree", "DenialEventsLost"}
    assert not quiet & prometheus.firing()
    process.misbehave()
    wanted = quiet | {"CapabilityDeniedOften", "EnforcementIncomplete", "ProcessAlertActive"}
    prometheus.wait(lambda: wanted <= prometheus.firing(), f"firing {wanted}")
    assert {name for name, firing in process.engine.active().items() if firing} == {r.name for r in default_rules()}


def exported(server: MetricsServer) -> set[str]:
    names = set(re.findall(r"^(pyisolate_\w+)", scrape(server).decode(), re.M))
    return {name for name in names if not name.endswith("_created")}


def test_rules_name_only_what_is_exported(host: tuple[Process, MetricsServer]) -> None:
    text = (MONITORING / "alerts.yml").read_text()
    expressions = "\n".join(line for line in text.splitlines() if "description" not in line and "#" not in line)
    assert set(re.findall(r"pyisolate_\w+", expressions)) <= exported(host[1])


def test_prometheus_stores_the_very_counts(prometheus: Prometheus, host: tuple[Process, MetricsServer]) -> None:
    process, _server = host
    want = process.metrics.denials.total()
    prometheus.wait(
        lambda: [r["value"][1] for r in prometheus.query("sum(pyisolate_denials_total)")] == [str(int(want))],
        f"{want} denials",
    )
    (row,) = prometheus.query('pyisolate_sandbox_cpu_seconds_total{policy="p"}')
    assert row["value"][1] == "3"  # one that lives, one that ended


def queries() -> list[tuple[str, str]]:
    board = json.loads((MONITORING / "dashboard.json").read_text())
    found = [(panel["title"], target["expr"]) for panel in board["panels"] for target in panel.get("targets", [])]
    return [*found, ("annotation", board["annotations"]["list"][0]["expr"].split(" ==")[0])]


def test_the_dashboard_shows_every_metric(host: tuple[Process, MetricsServer]) -> None:
    used = {name for _, text in queries() for name in re.findall(r"pyisolate_\w+", text)}
    assert exported(host[1]) <= used
    # A counter that has counted nothing yet is declared without a value.
    declared = set(re.findall(r"^# TYPE (pyisolate_\w+)", scrape(host[1]).decode(), re.M))
    assert used - exported(host[1]) <= declared


@pytest.mark.parametrize(("title", "expression"), queries())
def test_every_dashboard_query_has_an_answer(
    prometheus: Prometheus, host: tuple[Process, MetricsServer], title: str, expression: str
) -> None:
    ready = expression.replace("$__rate_interval", "1m").replace("$policy", ".*")

    def answer() -> Any:
        host[0].work()
        rows = prometheus.query(ready)
        return rows and all(row["value"][1] not in ("NaN", "+Inf") for row in rows) and rows

    prometheus.wait(answer, f"{title}: {ready}")
