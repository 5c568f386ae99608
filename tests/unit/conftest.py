"""Fixtures of the unit tier."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyisolate.telemetry.metrics import Metrics
from pyisolate.telemetry.recorder import Recorder


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """Keep what is recorded, and tell nobody."""
    made = Recorder(metrics=Metrics(), sinks=(), alerts=None)
    yield made
    made.shutdown()
