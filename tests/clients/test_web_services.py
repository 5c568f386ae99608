"""The services of docs/examples, asked by the frameworks' own test clients."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.require import require

EXAMPLES = Path(__file__).resolve().parents[2] / "docs/examples"
#: (source, status, the answer)
ASKED: list[tuple[str, int, dict[str, str]]] = [
    ("print('hi')\n6 * 7", 200, {"stdout": "hi\n", "value": "42"}),
    ("open('/etc/passwd')", 403, {"refused": "/etc/passwd", "code": "NOT_GRANTED"}),
    ("while True: pass", 422, {"limit": "timeout"}),
    ("1 / 0", 400, {"raised": "ZeroDivisionError", "message": "division by zero"}),
]


def app_of(name: str, package: str) -> Any:
    require(package, importlib.util.find_spec(package) is not None, f"pip install {package}")
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.app


@pytest.fixture
def _the_supervisor_ends() -> Iterator[None]:
    from pyisolate import api

    supervisor = api.default_supervisor()
    yield
    supervisor.close()


@pytest.mark.usefixtures("_the_supervisor_ends")
def test_flask() -> None:
    client = app_of("flask_service", "flask").test_client()
    for source, status, wanted in ASKED:
        answer = client.post("/run", data=source)
        assert (answer.status_code, answer.json) == (status, wanted)


@pytest.mark.usefixtures("_the_supervisor_ends")
def test_fastapi() -> None:
    app = app_of("fastapi_service", "fastapi")
    from fastapi.testclient import TestClient

    with TestClient(app) as client:
        for source, status, wanted in ASKED:
            answer = client.post("/run", json={"source": source})
            assert (answer.status_code, answer.json()) == (status, wanted)
