"""A real Prometheus scrapes one of a service's forked processes, and sees all of them, the killed ones too."""

from __future__ import annotations

from pathlib import Path

from pyisolate.metrics import serve_metrics
from pyisolate.telemetry.metrics import Metrics
from pyisolate.telemetry.shared_metrics import SharedMetrics
from tests.prometheus_server import PROMTOOL as PROMTOOL  # conftest.py: Prometheus is needed
from tests.prometheus_server import Prometheus
from tests.unit.test_shared_metrics import Worker, served

MONITORING = Path(__file__).parents[2] / "docs" / "monitoring"


def test_prometheus_sees_all_workers_and_loses_no_count_with_one(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    metrics = Metrics(SharedMetrics(str(tmp_path / "shared")))
    killed, living = (Worker(metrics, lambda: served(metrics, 3)) for _ in range(2))
    with serve_metrics(0, registry=metrics.exposed) as server:
        prometheus = Prometheus(tmp_path, server.port, MONITORING / "alerts.yml")
        try:

            def shows(expression: str, value: str) -> None:
                wanted = f"{expression} is {value}"
                prometheus.wait(lambda: [r["value"][1] for r in prometheus.query(expression)] == [value], wanted)

            shows("sum(pyisolate_denials_total)", "6")
            shows("sum(pyisolate_sandboxes)", "2")
            shows('pyisolate_exec_seconds_count{outcome="returned"}', "2")
            killed.kill()
            shows("sum(pyisolate_sandboxes)", "1")
            shows("sum(pyisolate_denials_total)", "6")
        finally:
            prometheus.close()
            living.kill()
            metrics.close()
