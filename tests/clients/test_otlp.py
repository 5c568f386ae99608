"""What a sandbox is refused reaches OTLP receivers over HTTP and over gRPC, by OpenTelemetry's own exporters."""

from __future__ import annotations

import concurrent.futures
import contextlib
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


class Received:
    """What arrived at one receiver, and where it listens."""

    def __init__(self) -> None:
        self.logs: list[Any] = []
        self.spans: list[Any] = []
        self.refused = 0
        self.address = ""

    def refuses(self, kind: str) -> bool:
        """The first of the logs is refused: the exporter sends it again."""
        if kind == "logs" and not self.refused:
            self.refused = 1
            return True
        return False

    def exporters(self) -> tuple[Any, Any]:
        """Return OpenTelemetry's own exporters for it, of logs and of spans."""
        raise NotImplementedError


class OverHTTP(Received):
    def exporters(self) -> tuple[Any, Any]:
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        return OTLPLogExporter(endpoint=f"{self.address}/logs"), OTLPSpanExporter(endpoint=f"{self.address}/traces")


class OverGRPC(Received):
    def exporters(self) -> tuple[Any, Any]:
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        options = {"endpoint": self.address, "insecure": True}
        return OTLPLogExporter(**options), OTLPSpanExporter(**options)


class Handler(http.server.BaseHTTPRequestHandler):
    """Decodes what it is sent as collectors do."""

    received: Received

    def do_POST(self) -> None:
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        body = self.rfile.read(int(self.headers["Content-Length"]))
        kind = self.path.rpartition("/")[2]
        if self.received.refuses(kind):
            self.send_response(503)
            self.end_headers()
            return
        request = ExportLogsServiceRequest() if kind == "logs" else ExportTraceServiceRequest()
        request.ParseFromString(body)
        (self.received.logs if kind == "logs" else self.received.spans).append(request)
        self.send_response(200)
        self.end_headers()
        # what protobuf makes of an empty answer: no bytes

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def over_http() -> Iterator[Received]:
    received = OverHTTP()
    handler = type("Bound", (Handler,), {"received": received})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        received.address = f"http://127.0.0.1:{server.server_port}/v1"
        yield received
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def over_grpc() -> Iterator[Received]:
    """Serve the two services that a collector does, by grpcio and OpenTelemetry's own definitions."""
    import grpc
    from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs
    from opentelemetry.proto.collector.logs.v1 import logs_service_pb2_grpc as logs_grpc
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as traces_grpc

    received = OverGRPC()

    class Logs(logs_grpc.LogsServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:
            if received.refuses("logs"):
                context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
            received.logs.append(request)
            return logs.ExportLogsServiceResponse()

    class Traces(traces_grpc.TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:
            received.spans.append(request)
            return traces.ExportTraceServiceResponse()

    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        logs_grpc.add_LogsServiceServicer_to_server(Logs(), server)
        traces_grpc.add_TraceServiceServicer_to_server(Traces(), server)
        received.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        yield received
        server.stop(None).wait()


@pytest.fixture(params=["http", "grpc"])
def receiver(request: pytest.FixtureRequest) -> Iterator[Received]:
    name = f"opentelemetry.exporter.otlp.proto.{request.param}"
    have = importlib.util.find_spec("opentelemetry") is not None
    have = have and importlib.util.find_spec("opentelemetry.exporter") is not None
    have = have and importlib.util.find_spec(name) is not None
    require("otlp", have, f"pip install opentelemetry-exporter-otlp-proto-{request.param}")
    with over_http() if request.param == "http" else over_grpc() as received:
        yield received


def value(attribute: Any) -> Any:
    return getattr(attribute.value, attribute.value.WhichOneof("value"))


def test_refusals_arrive_with_their_names(receiver: Received) -> None:
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

    from pyisolate.telemetry.sinks.otel import OTelSink

    provider = LoggerProvider(shutdown_on_exit=False)
    exporter, _ = receiver.exporters()
    provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
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
        for request in receiver.logs
        for resource in request.resource_logs
        for scope in resource.scope_logs
        for record in scope.log_records
    ]
    assert receiver.refused == 1
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
    receiver: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in pod_environment().items():
        monkeypatch.setenv(name, text)
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from pyisolate.telemetry.sinks.otel import OTelSink

    traces, logs = TracerProvider(shutdown_on_exit=False), LoggerProvider(shutdown_on_exit=False)
    of_logs, of_spans = receiver.exporters()
    traces.add_span_processor(BatchSpanProcessor(of_spans))
    logs.add_log_record_processor(BatchLogRecordProcessor(of_logs))
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

    sent = [resource for request in receiver.spans for resource in request.resource_spans]
    spans = {span.name: span for resource in sent for scope in resource.scope_spans for span in scope.spans}
    assert set(spans) == {"pyisolate.spawn", "pyisolate.exec"}
    attributes = {one.key: value(one) for one in spans["pyisolate.exec"].attributes}
    assert (attributes["pyisolate.denials"], attributes["pyisolate.outcome"]) == (1, "returned")
    kept = [one for request in receiver.logs for one in request.resource_logs]
    (record,) = (one for resource in kept for scope in resource.scope_logs for one in scope.log_records)
    assert (record.trace_id, record.span_id) == (spans["pyisolate.exec"].trace_id, spans["pyisolate.exec"].span_id)
    for resource in (*sent, *kept):
        named = {one.key: value(one) for one in resource.resource.attributes}
        assert (named["k8s.pod.name"], named["k8s.namespace.name"]) == ("<metadata.name>", "<metadata.namespace>")
        assert (named["k8s.node.name"], named["k8s.container.name"]) == ("<spec.nodeName>", "service")
