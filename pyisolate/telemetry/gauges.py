"""What a scraper is shown of the moment: gauges over live sandboxes and waiting cells."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from .rows import CellState, SandboxRow


class Collector:
    """What the registry sees: everything is computed when it is scraped."""

    def __init__(self, collect: Callable[[], Iterator[Metric]]) -> None:
        self.collect = collect


def gauges(rows: Iterable[SandboxRow], cells: Mapping[CellState, int]) -> Iterator[Metric]:
    """Return the gauges of these sandboxes and cells."""
    states: defaultdict[tuple[str, str], int] = defaultdict(int)
    memory: defaultdict[str, int] = defaultdict(int)
    for row in rows:
        states[row.isolation, row.state] += 1
        memory[row.policy] += row.memory_bytes
    family = GaugeMetricFamily("pyisolate_sandboxes", "Live sandboxes.", labels=("isolation", "state"))
    for labels, count in states.items():
        family.add_metric(labels, count)
    yield family
    family = GaugeMetricFamily("pyisolate_sandbox_memory_bytes", "Memory of live sandboxes.", labels=("policy",))
    for policy, size in memory.items():
        family.add_metric((policy,), size)
    yield family
    yield _connections(rows)
    family = GaugeMetricFamily("pyisolate_pool_cells", "Cells that wait for a spawn.", labels=("state",))
    for kind, waiting in cells.items():
        family.add_metric((kind,), waiting)
    yield family


def _connections(rows: Iterable[SandboxRow]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        "pyisolate_egress_connections", "Connections of guests to the egress proxy.", labels=("policy",)
    )
    connections: defaultdict[str, int] = defaultdict(int)
    for row in rows:
        if row.egress_connections is not None:
            connections[row.policy] += row.egress_connections
    for policy, count in connections.items():
        family.add_metric((policy,), count)
    return family
