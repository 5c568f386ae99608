"""No content, token or environment reaches any output: secrets are planted everywhere and looked for everywhere."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import traceback
import urllib.request
from pathlib import Path

import pytest

from pyisolate.actor import acting_as
from pyisolate.errors import PolicyError
from pyisolate.guards import guard
from pyisolate.metrics import serve_metrics
from pyisolate.supervisor import control_token as control
from pyisolate.supervisor.control_token import check_token, set_policy_token
from pyisolate.telemetry.formats import to_ecs, to_ocsf
from pyisolate.telemetry.metrics import Metrics
from pyisolate.telemetry.pipeline import SandboxTelemetry
from pyisolate.telemetry.recorder import HOST, Recorder
from pyisolate.telemetry.sinks.audit import AuditLog
from pyisolate.telemetry.sinks.otel import attributes
from pyisolate.telemetry.sinks.webhook import WebhookSink
from tests.telemetry_events import CONTEXT, broker, kernel

TOKEN, KEY, ENVIRONMENT, CONTENT, ARGUMENT = (f"planted-{name}-0123456789abcdef" for name in "tkeca")


def test_planted_secrets_are_in_no_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SECRET", ENVIRONMENT)
    (tmp_path / "secret").write_text(CONTENT)
    caplog.set_level(logging.DEBUG)
    posted: list[bytes] = []
    metrics = Metrics()
    hook = WebhookSink("http://127.0.0.1:9/v1?key=" + KEY, key=KEY, linger_s=0, flush_timeout_s=0.5, metrics=metrics)
    monkeypatch.setattr(hook._endpoint, "post", lambda body: posted.append(body))
    recorder = Recorder(metrics=metrics, audit=AuditLog(tmp_path / "log"), sinks=[hook])
    outputs: list[str] = []

    @guard("fs.read", target="{path}", policy=(), recorder=recorder)
    def read(path: str, password: str) -> str:
        return Path(path).read_text() + password

    set_policy_token(TOKEN)
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(stderr):
        try:
            for attempt in (
                lambda: read(str(tmp_path / "secret"), password=ARGUMENT),
                lambda: check_token(TOKEN + "x", "reload", recorder=recorder),
                lambda: set_policy_token("n" * 20, current=TOKEN[:-1]),
            ):
                with acting_as("user", "bob"), pytest.raises(PolicyError) as caught:
                    attempt()
                outputs += [str(caught.value), repr(caught.value), caught.value.denial_event.to_json()]
                outputs.append("".join(traceback.format_exception_only(caught.value)))
        finally:
            control._digest = None
    telemetry = SandboxTelemetry(CONTEXT, recorder)
    telemetry.reported(broker(target=str(tmp_path / "secret")))
    telemetry.kernel(kernel(target=str(tmp_path / "secret")))
    events = recorder.events_of(HOST) + telemetry.store.events()
    assert len(events) == 4
    for one in events:
        outputs += [str(one), repr(one), json.dumps([to_ecs(one), to_ocsf(one), attributes(one)])]
    with serve_metrics(0, registry=metrics.registry) as server, urllib.request.urlopen(server.url) as answer:
        outputs.append(answer.read().decode())
    recorder.shutdown()
    outputs += [repr(hook), repr(recorder), stderr.getvalue(), caplog.text, (tmp_path / "log").read_text()]
    outputs += [body.decode() for body in posted]
    assert len(posted) >= 1
    assert str(tmp_path / "secret") in outputs[-1]  # names are there, so what is looked for would be found
    for planted in (TOKEN, KEY, ENVIRONMENT, CONTENT, ARGUMENT):
        assert not [text for text in outputs if planted in text], planted
