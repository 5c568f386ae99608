"""The examples of docs/guards.md, docs/metrics.md and docs/protocol.md are true."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import pyisolate
from pyisolate.api import set_alert_rules
from pyisolate.guards import guard_denials
from pyisolate.telemetry.alerts import AlertEngine, default_engine, default_rules
from pyisolate.telemetry.sinks.configure import sinks_from_config
from tests.telemetry_events import event

DOCS = Path(__file__).parents[2] / "docs"


def blocks(name: str) -> list[str]:
    text = (DOCS / name).read_text()
    found = re.findall(r"(?:^    .*\n(?:^\s*\n)?)+", text, re.M)
    return ["\n".join(line[4:] for line in block.splitlines()) for block in found]


def block(name: str, needle: str) -> str:
    (found,) = [text for text in blocks(name) if needle in text]
    return found


def test_the_guard_example_refuses_what_it_says() -> None:
    names: dict[str, Any] = {}
    with pytest.raises(pyisolate.PolicyError) as caught:
        exec(compile(block("guards.md", "def fetch"), "docs/guards.md", "exec"), names)
    event = caught.value.denial_event
    assert (event.code, event.target, event.actor.id) == ("SCOPE_INSUFFICIENT", "127.0.0.1:22", "7")
    assert guard_denials()[-1] == event


def test_the_alert_example_is_a_set_of_rules() -> None:
    code = block("metrics.md", "SecretsTouched")
    try:
        exec(compile(code, "docs/metrics.md", "exec"), {"page_somebody": print})
        assert [rule.name for rule in default_engine().rules][-1] == "SecretsTouched"
    finally:
        set_alert_rules(default_rules())
    text = (DOCS / "metrics.md").read_text()
    assert all(f"`{rule.name}`" in text for rule in default_rules())
    engine = AlertEngine()
    engine.observe(event())
    assert not any(engine.active().values())


def test_the_sinks_example_is_a_configuration(tmp_path: Path) -> None:
    import msgspec

    (tmp_path / "key").write_text("k" * 20)
    text = block("protocol.md", "webhook:")
    text = text.replace("/var/log/pyisolate/audit.jsonl", str(tmp_path / "a")).replace(
        "/run/secrets/collector", str(tmp_path / "key")
    )
    config = msgspec.yaml.decode(text)
    config.pop("otel")  # an extra
    for sink in sinks_from_config(config):
        sink.close()
