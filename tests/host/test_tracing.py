"""Spans of real spawns and requests, by OpenTelemetry's own SDK, and the caller's trace on events."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest

import pyisolate
from pyisolate.telemetry import tracing
from pyisolate.telemetry.metrics import Metrics
from pyisolate.telemetry.recorder import Recorder
from tests.require import require

pytestmark = pytest.mark.once


POLICY = pyisolate.Policy.preset("compute").with_name("traced")
REFUSED = "try: open('/etc/passwd')\nexcept OSError: pass"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The SDK's provider, with `finished()` spans."""
    require("otel", importlib.util.find_spec("opentelemetry.sdk") is not None, "pip install opentelemetry-sdk")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    provider.finished = exporter.get_finished_spans  # type: ignore[attr-defined]
    monkeypatch.setattr(tracing, "_tracer", None)
    monkeypatch.setattr(tracing, "_current_span", None)
    yield provider
    provider.shutdown()


@pytest.fixture
def supervisor() -> Iterator[pyisolate.Supervisor]:
    with pyisolate.Supervisor(pool_size=1, recorder=Recorder(metrics=Metrics(), sinks=())) as made:
        yield made


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_spawns_and_requests_are_spans_below_the_callers(
    supervisor: pyisolate.Supervisor, spans: Any, isolation: str
) -> None:
    pyisolate.set_tracer_provider(spans)
    with (
        spans.get_tracer("test").start_as_current_span("caller") as caller,
        supervisor.spawn("guest", POLICY, isolation=isolation, enforcement="best_effort") as sandbox,
    ):
        sandbox.exec(REFUSED)
        with pytest.raises(pyisolate.PolicyError):
            sandbox.exec("open('/etc/shadow')")
        with pytest.raises(pyisolate.GuestError):
            sandbox.exec("raise ValueError('a secret')")
    spawned, caught, refused, raised, _ = spans.finished()
    assert [one.name for one in (spawned, caught, refused, raised)] == ["pyisolate.spawn", *["pyisolate.exec"] * 3]
    assert {one.parent.span_id for one in (spawned, caught, refused, raised)} == {caller.get_span_context().span_id}
    for one in (spawned, caught):
        assert one.status.status_code.name == "UNSET"
        assert one.attributes["security_rule.ruleset.name"] == "traced"
        assert one.attributes["pyisolate.sandbox_id"] == sandbox.id
        assert one.attributes["process.pid"] == sandbox.pid
    assert (caught.attributes["pyisolate.outcome"], caught.attributes["pyisolate.denials"]) == ("returned", 1)
    assert (refused.attributes["pyisolate.outcome"], refused.status.status_code.name) == ("refused", "ERROR")
    assert (raised.attributes["pyisolate.denials"], raised.attributes["error.type"]) == (0, "GuestError")
    assert "secret" not in raised.to_json()
    events = {event.target: event.traceparent for event in sandbox.get_denial_events()}
    assert events == {"/etc/passwd": _text(caught), "/etc/shadow": _text(refused)}


def _text(span: Any) -> str:
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-01"


def test_a_spawn_that_fails_is_a_span_with_its_error(supervisor: pyisolate.Supervisor, spans: Any) -> None:
    pyisolate.set_tracer_provider(spans)
    with pytest.raises(pyisolate.PolicyError):
        supervisor.spawn("guest", POLICY, require_actor=True)
    (failed,) = spans.finished()
    assert (failed.name, failed.attributes["error.type"]) == ("pyisolate.spawn", "PolicyError")


def test_tasks_of_asyncio_keep_their_traces_apart(supervisor: pyisolate.Supervisor, spans: Any) -> None:
    pyisolate.set_tracer_provider(spans)
    tracer = spans.get_tracer("test")

    async def one(name: str) -> tuple[str, Any]:
        with tracer.start_as_current_span(name):
            async with await supervisor.aspawn(name, POLICY) as sandbox:
                await sandbox.aexec(REFUSED)
                return name, sandbox.get_denial_events()[0].traceparent

    async def all_of_them() -> list[tuple[str, Any]]:
        return await asyncio.gather(one("first"), one("second"))

    seen = dict(asyncio.run(all_of_them()))
    for name, traceparent in seen.items():
        (caller,) = (span for span in spans.finished() if span.name == name)
        assert traceparent.split("-")[1] == f"{caller.get_span_context().trace_id:032x}"


def test_without_a_provider_there_is_no_span_and_no_trace(supervisor: pyisolate.Supervisor, spans: Any) -> None:
    with supervisor.spawn("guest", POLICY) as sandbox:
        with spans.get_tracer("test").start_as_current_span("caller"):
            sandbox.exec(REFUSED)
        tracing.read_callers()  # as an OTelSink does: no spans, and the caller's trace on events
        with spans.get_tracer("test").start_as_current_span("caller") as caller:
            sandbox.exec("try: open('/etc/shadow')\nexcept OSError: pass")
        sandbox.exec("try: open('/etc/group')\nexcept OSError: pass")
        events = {event.target: event.traceparent for event in sandbox.get_denial_events()}
    assert [span.name for span in spans.finished()] == ["caller", "caller"]
    assert events == {"/etc/passwd": None, "/etc/shadow": _text(caller), "/etc/group": None}


def test_what_is_no_provider_is_refused() -> None:
    with pytest.raises(TypeError, match="get_tracer"):
        pyisolate.set_tracer_provider(object())
