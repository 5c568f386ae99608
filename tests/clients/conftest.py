"""Programs that users point at pyisolate: Prometheus and promtool, from Debian's package."""

from __future__ import annotations

import pytest
from prometheus_server import BINARY, PROMTOOL
from require import require


@pytest.fixture(autouse=True, scope="session")
def _prometheus_is_installed() -> None:
    require("prometheus", BINARY is not None and PROMTOOL is not None, "apt-get install prometheus")
