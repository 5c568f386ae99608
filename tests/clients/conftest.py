"""Programs that users point at pyisolate, and libraries that they run in it; Prometheus is Debian's package."""

from __future__ import annotations

import pytest

from tests.prometheus_server import BINARY, PROMTOOL
from tests.require import require


@pytest.fixture(autouse=True)
def _prometheus_is_installed(request: pytest.FixtureRequest) -> None:
    if hasattr(request.module, "PROMTOOL"):
        require("prometheus", BINARY is not None and PROMTOOL is not None, "apt-get install prometheus")
