"""Import paths that were documented once stay valid; files that the documents name exist."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("module", "name", "home"),
    [
        ("pyisolate.sandbox", "Sandbox", "pyisolate"),
        ("pyisolate.telemetry", "DenialEvent", "pyisolate"),
        ("pyisolate.telemetry.alerts", "set_alert_rules", "pyisolate"),
        ("pyisolate.telemetry.audit", "AuditLog", "pyisolate.telemetry.sinks.audit"),
        ("pyisolate.telemetry.reader", "read_events", "pyisolate.telemetry.sinks.audit_reader"),
        ("pyisolate.telemetry.reader", "follow_events", "pyisolate.telemetry.sinks.audit_reader"),
        ("pyisolate.telemetry.mapping", "to_ocsf", "pyisolate.telemetry.formats"),
        ("pyisolate.telemetry.mapping", "to_ecs", "pyisolate.telemetry.formats"),
    ],
)
def test_a_documented_path_leads_to_the_object_of_today(module: str, name: str, home: str) -> None:
    assert getattr(importlib.import_module(module), name) is getattr(importlib.import_module(home), name)


FILES = re.compile(r"`([\w./-]+/)?(\w+\.(?:py|c|h))`")


@pytest.mark.parametrize(
    "document", ["docs/architecture.md", "CONTRIBUTING.md", "docs/hooks.md", "docs/threat-model.md"]
)
def test_files_that_a_document_names_exist(document: str) -> None:
    known = [str(path.relative_to(ROOT)) for room in ("pyisolate", "bpf", "tests", "benchmarks") for path in
             (ROOT / room).rglob("*.*")] + [path.name for path in ROOT.iterdir()]  # fmt: skip
    named = {f"{folder}{name}" for folder, name in FILES.findall((ROOT / document).read_text())}
    assert named
    missing = {one for one in named if not any(f"/{path}".endswith(f"/{one}") for path in known)}
    assert not missing
