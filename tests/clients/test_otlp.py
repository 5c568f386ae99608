"""What a sandbox is refused reaches an OTLP receiver over HTTP, by OpenTelemetry's own exporter."""

from __future__ import annotations

import http.server
import importlib.util
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import pyisolate
from tests.require import require


class Receiver(http.server.BaseHTTPRequestHandler):
    """Decodes what it is sent as collectors do, and refuses the first of the logs: the exporter sends it again."""

    received: list[Any] = []  # noqa: RUF012 - one for the server
    refused = 0

    def do_POST(self) -> None:
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        body = self.rfile.read(int(self.headers["Content-Length"]))
        logs = self.path == "/v1/logs"
        if logs and not type(self).refused:
            type(self).refused = 1
            self.send_response(503)
            self.end_headers()
            return
        request = ExportLogsServiceRequest() if logs else ExportTraceServiceRequest()
        request.ParseFromString(body)
        self.received.append((self.path, request))
        self.send_response(200)
        self.end_headers()
        # what protobuf makes of an empty answer: no bytes

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[str]:
    Receiver.received, Receiver.refused = [], 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


def value(attribute: Any) -> Any:
    return getattr(attribute.value, attribute.value.WhichOneof("value"))


def require_exporter() -> None:
    have = importlib.util.find_spec("opentelemetry") is not None
    have = have and importlib.util.find_spec("opentelemetry.exporter") is not None
    require("otlp", have, "pip install opentelemetry-exporter-otlp-proto-http")


def test_refusals_arrive_with_their_names(receiver: str) -> None:
    require_exporter()
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

    from pyisolate.telemetry.sinks.otel import OTelSink

    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter(endpoint=f"{receiver}/logs")))
    policy = pyisolate.Policy.preset("compute").with_name("otlp")
    with (
        pyisolate.Supervisor(pool_size=1, sinks=[OTelSink(provider)]) as supervisor,
        supervisor.spawn("guest", policy) as sandbox,
    ):
        sandbox.exec("try: open('/etc/passwd')\nexcept OSError: pass")
        sandbox.exec("import socket\ntry: socket.create_connection(('127.0.0.1', 9), 1)\nexcept OSError: pass")
        events = sandbox.get_denial_events()
    provider.shutdown()

    records = [
        record
        for path, request in Receiver.received
        for resource in request.resource_logs
        for scope in resource.scope_logs
        for record in scope.log_records
        if path == "/v1/logs"
    ]
    assert Receiver.refused == 1
    found = [{one.key: value(one) for one in record.attributes} for record in records]
    assert sorted(one["pyisolate.event_id"] for one in found) == sorted(event.event_id for event in events)
    assert {record.event_name for record in records} == {"pyisolate.denial"}
    (file,) = (one for one in found if one["pyisolate.capability"] == "fs.read")
    assert (file["file.path"], file["file.name"], file["security_rule.ruleset.name"]) == (
        "/etc/passwd",
        "passwd",
        "otlp",
    )
    assert file["process.pid"] == events[0].pid
    net = [one for one in found if one["pyisolate.capability"].startswith("net.")]
    assert net
    assert all(one["server.port"] == 9 for one in net if "server.address" in one)


def pod_environment() -> dict[str, str]:
    """Return the environment of the shipped manifest's first pod, as the kubelet fills it in."""
    documents = yaml.safe_load_all((Path(__file__).parents[2] / "docs" / "deploy" / "kubernetes.yaml").read_text())
    pod = next(one for one in documents if one["kind"] == "Pod")
    found: dict[str, str] = {}
    for entry in pod["spec"]["containers"][0]["env"]:
        source = entry.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "")
        text = entry.get("value", f"<{source}>")
        found[entry["name"]] = re.sub(r"\$\((\w+)\)", lambda match: found[match[1]], text)
    return found


def test_spans_and_their_records_arrive_from_the_pod_with_one_trace(
    receiver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_exporter()
    for name, text in pod_environment().items():
        monkeypatch.setenv(name, text)
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from pyisolate.telemetry.sinks.otel import OTelSink

    traces, logs = TracerProvider(shutdown_on_exit=False), LoggerProvider(shutdown_on_exit=False)
    traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{receiver}/traces")))
    logs.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter(endpoint=f"{receiver}/logs")))
    pyisolate.set_tracer_provider(traces)
    try:
        with (
            pyisolate.Supervisor(pool_size=1, sinks=[OTelSink(logs)]) as supervisor,
            supervisor.spawn("guest", "compute") as sandbox,
        ):
            sandbox.exec("try: open('/etc/passwd')\nexcept OSError: pass")
    finally:
        pyisolate.set_tracer_provider(None)
        traces.shutdown()
        logs.shutdown()

    sent = [
        resource for path, request in Receiver.received if path == "/v1/traces" for resource in request.resource_spans
    ]
    spans = {span.name: span for resource in sent for scope in resource.scope_spans for span in scope.spans}
    assert set(spans) == {"pyisolate.spawn", "pyisolate.exec"}
    attributes = {one.key: value(one) for one in spans["pyisolate.exec"].attributes}
    assert (attributes["pyisolate.denials"], attributes["pyisolate.outcome"]) == (1, "returned")
    kept = [one for path, request in Receiver.received if path == "/v1/logs" for one in request.resource_logs]
    (record,) = (one for resource in kept for scope in resource.scope_logs for one in scope.log_records)
    assert (record.trace_id, record.span_id) == (spans["pyisolate.exec"].trace_id, spans["pyisolate.exec"].span_id)
    for resource in (*sent, *kept):
        named = {one.key: value(one) for one in resource.resource.attributes}
        assert (named["k8s.pod.name"], named["k8s.namespace.name"]) == ("<metadata.name>", "<metadata.namespace>")
        assert (named["k8s.node.name"], named["k8s.container.name"]) == ("<spec.nodeName>", "service")
