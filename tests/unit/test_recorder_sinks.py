"""Sinks are configured by argument, file or environment, and every mistake is named with its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyisolate.distribution import install_extra
from pyisolate.errors import PolicySyntaxError
from pyisolate.telemetry.sinks.audit import AuditLog
from pyisolate.telemetry.sinks.configure import sinks_from_config, sinks_from_environment, sinks_from_file
from pyisolate.telemetry.sinks.otel import OTelSink, attributes
from pyisolate.telemetry.sinks.webhook import WebhookSink
from tests.require import require
from tests.telemetry_events import event

try:
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor

    try:
        from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter
    except ImportError:
        from opentelemetry.sdk._logs.export import InMemoryLogExporter as InMemoryLogRecordExporter
    HAVE_OTEL = True
except ImportError:
    HAVE_OTEL = False


def kinds(sinks: list[object]) -> list[type]:
    for sink in sinks:
        sink.close()
    return [type(sink) for sink in sinks]


def test_nothing_is_configured_by_default() -> None:
    assert sinks_from_environment({}) == []


def test_the_environment_configures(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("k" * 20)
    environ = {
        "PYISOLATE_AUDIT_LOG": str(tmp_path / "a.jsonl"),
        "PYISOLATE_WEBHOOK_URL": "http://127.0.0.1:1/",
        "PYISOLATE_WEBHOOK_KEY_FILE": str(key),
        "PYISOLATE_WEBHOOK_KEY": "ignored",
    }
    assert kinds(sinks_from_environment(environ)) == [AuditLog, WebhookSink]


@pytest.mark.parametrize("suffix", [".yaml", ".toml", ".json"])
def test_a_file_configures_and_wins(tmp_path: Path, suffix: str) -> None:
    texts = {
        ".yaml": "audit: {path: LOG, fsync: always}\nwebhook:\n  - {url: 'http://127.0.0.1:1/a'}\n  - {url: 'http://127.0.0.1:1/b'}\n",
        ".toml": "[audit]\npath = 'LOG'\n[[webhook]]\nurl = 'http://127.0.0.1:1/a'\n[[webhook]]\nurl = 'http://127.0.0.1:1/b'\n",
        ".json": '{"audit": {"path": "LOG"}, "webhook": [{"url": "http://127.0.0.1:1/a"}, {"url": "http://127.0.0.1:1/b"}]}',
    }
    file = tmp_path / f"sinks{suffix}"
    file.write_text(texts[suffix].replace("LOG", str(tmp_path / "a.jsonl")))
    environ = {"PYISOLATE_SINKS_FILE": str(file), "PYISOLATE_AUDIT_LOG": "/ignored"}
    assert kinds(sinks_from_environment(environ)) == [AuditLog, WebhookSink, WebhookSink]


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"adit": {}}, "adit"),
        ({"audit": {"pth": "/x"}}, "audit"),
        ({"audit": {}}, "audit"),
        ({"webhook": {"url": "nope"}}, "webhook"),
        ({"webhook": "http://x/"}, "webhook"),
        ([], None),
    ],
)
def test_mistakes_are_named(config: object, key: str | None) -> None:
    with pytest.raises(PolicySyntaxError) as caught:
        sinks_from_config(config, file="sinks.yaml")
    assert caught.value.key == key
    assert "sinks.yaml" in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "x.json"
    broken.write_text("{")
    for path in (broken, tmp_path / "missing.yaml"):
        with pytest.raises(PolicySyntaxError, match=str(path)):
            sinks_from_file(path)


def test_opentelemetry_gets_one_record_per_event() -> None:
    require("opentelemetry", HAVE_OTEL, install_extra("otel"))
    exporter, provider = InMemoryLogRecordExporter(), LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    sink, one = OTelSink(provider), event()
    sink.emit(one)
    sink.close()
    (record,) = (data.log_record for data in exporter.get_finished_logs())
    assert record.body == str(one)
    assert record.severity_text == "WARN"
    assert record.event_name == "pyisolate.denial"
    assert record.attributes["pyisolate.capability"] == "fs.read"
    assert abs(record.timestamp / 1e9 - one.time) < 1e-3
    sent = {name: list(value) if isinstance(value, tuple) else value for name, value in record.attributes.items()}
    assert sent == attributes(one)
    provider.shutdown()
