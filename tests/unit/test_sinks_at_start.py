"""Sinks that the environment configures wrongly are an error when a supervisor starts, never dropped in silence."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import pyisolate
from pyisolate.errors import PolicySyntaxError, SandboxError
from pyisolate.telemetry.metrics import Metrics
from pyisolate.telemetry.recorder import Recorder
from pyisolate.telemetry.sinks import configure
from pyisolate.telemetry.sinks.audit import AuditLog
from tests.telemetry_events import event

Environ = Callable[[str, str], None]


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> Environ:
    """Return a setter of environment variables; the process has no sinks yet."""
    for name in ("SINKS_FILE", "AUDIT_LOG", "WEBHOOK_URL", "WEBHOOK_KEY", "WEBHOOK_KEY_FILE"):
        monkeypatch.delenv(f"PYISOLATE_{name}", raising=False)
    monkeypatch.setattr(configure, "_sinks", None)
    monkeypatch.setattr(configure, "_failure", None)
    return monkeypatch.setenv


def start() -> None:
    with pyisolate.Supervisor(pool_size=0):
        pass


def test_a_missing_sinks_file_is_an_error_at_every_start(tmp_path: Path, environ: Environ) -> None:
    missing = tmp_path / "sinks.yaml"
    environ("PYISOLATE_SINKS_FILE", str(missing))
    for _ in range(2):
        with pytest.raises(PolicySyntaxError, match=str(missing)):
            start()


def test_a_misspelt_key_is_an_error_and_opens_no_sink(tmp_path: Path, environ: Environ) -> None:
    log, file = tmp_path / "audit.jsonl", tmp_path / "sinks.yaml"
    file.write_text(f"audit: {{path: {log}}}\nwebhok: {{url: 'http://127.0.0.1:1/'}}\n")
    environ("PYISOLATE_SINKS_FILE", str(file))
    with pytest.raises(PolicySyntaxError, match="webhok"):
        start()
    assert not log.exists()


def test_an_audit_log_that_cannot_be_opened_is_an_error(tmp_path: Path, environ: Environ) -> None:
    environ("PYISOLATE_AUDIT_LOG", str(tmp_path / "absent" / "audit.jsonl"))
    with pytest.raises(SandboxError, match=r"audit log, on .*absent"):
        start()


def test_otel_without_its_package_is_an_error_and_closes_what_was_opened(
    tmp_path: Path, environ: Environ, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []
    close = AuditLog.close
    monkeypatch.setattr(AuditLog, "close", lambda self: (closed.append(self.path), close(self))[1])
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    log, file = tmp_path / "audit.jsonl", tmp_path / "sinks.yaml"
    file.write_text(f"audit: {{path: {log}}}\notel: {{}}\n")
    environ("PYISOLATE_SINKS_FILE", str(file))
    with pytest.raises(SandboxError, match=r"pyisolate-kernel\[otel\]"):
        start()
    assert closed == [str(log)]


def test_a_mended_configuration_is_read_at_the_next_start(tmp_path: Path, environ: Environ) -> None:
    log = tmp_path / "absent" / "audit.jsonl"
    environ("PYISOLATE_AUDIT_LOG", str(log))
    recorder = Recorder(metrics=Metrics(), alerts=None)
    with pytest.raises(SandboxError):
        recorder.open_sinks()
    log.parent.mkdir()
    recorder.open_sinks()
    recorder.record(event())
    for sink in recorder.sinks:
        sink.close()
    assert len(log.read_text().splitlines()) == 1


def test_events_before_any_start_are_counted_logged_and_kept(
    tmp_path: Path, environ: Environ, caplog: pytest.LogCaptureFixture
) -> None:
    environ("PYISOLATE_SINKS_FILE", str(tmp_path / "missing.yaml"))
    log, metrics = tmp_path / "audit.jsonl", Metrics()
    recorder = Recorder(metrics=metrics, audit=AuditLog(log), alerts=None)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            recorder.record(event())
    recorder.shutdown()
    assert len(log.read_text().splitlines()) == 3
    assert metrics.audit_errors.value() == 3
    assert "missing.yaml" in caplog.text


@pytest.mark.parametrize("name", ["WEBHOOK_KEY", "WEBHOOK_KEY_FILE"])
def test_a_key_without_a_webhook_is_an_error(environ: Environ, name: str) -> None:
    environ(f"PYISOLATE_{name}", "/secret")
    with pytest.raises(PolicySyntaxError, match="PYISOLATE_WEBHOOK_URL") as caught:
        start()
    assert "/secret" not in str(caught.value)
