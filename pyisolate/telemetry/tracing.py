"""Traces: events bear the caller's trace context, and spawns and requests become spans where the host asks for it.

OpenTelemetry (the extra `otel`) is imported by `set_tracer_provider` and by an OTelSink, never before. Until then a
request costs a comparison with None here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from ..distribution import install_extra
from ..errors import SandboxError
from ..records import SandboxContext

#: Makes spans, once the host asked for them.
_tracer: Any = None
#: Returns the caller's span, once the host has set a provider.
_current_span: Callable[[], Any] | None = None
_INSTRUMENTATION = "pyisolate"

Attributes = Mapping[str, str | int]


def set_tracer_provider(provider: Any) -> None:
    """Make a span of every spawn (`pyisolate.spawn`) and request (`pyisolate.exec`); None ends that.

    `provider` is a TracerProvider of OpenTelemetry, such as `opentelemetry.trace.get_tracer_provider()`. Spans are
    children of the caller's. Raises SandboxError without the extra `otel`, TypeError for what is no provider.
    """
    global _tracer
    if provider is None:
        _tracer = None
        return
    if not callable(getattr(provider, "get_tracer", None)):
        raise TypeError(f"set_tracer_provider, on {type(provider).__name__}: it has no get_tracer(name)")
    read_callers()
    _tracer = provider.get_tracer(_INSTRUMENTATION)


def observed() -> bool:
    """True where requests have spans, or their events a trace context."""
    return _tracer is not None or _current_span is not None


def read_callers() -> None:
    """Let events bear the trace context of the request's caller. Raises SandboxError without the extra `otel`."""
    global _current_span
    try:
        from opentelemetry import trace
    except ImportError as error:
        raise SandboxError("traces: opentelemetry is not installed", hint=install_extra("otel")) from error
    _current_span = trace.get_current_span


def traceparent() -> str | None:
    """Return the trace context of the caller as W3C Trace Context writes it, None where there is none."""
    if _current_span is None:
        return None
    context = _current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & 1:02x}"


@contextmanager
def continued(parent: str | None) -> Iterator[None]:
    """Make a trace context that `traceparent` returned in another process the current one; None changes nothing.

    It does nothing without the extra `otel`: no span is made then, and no event has a trace.
    """
    if parent is None:
        yield
        return
    try:
        from opentelemetry import context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
    except ImportError:
        yield
        return
    read_callers()
    token = context.attach(TraceContextTextMapPropagator().extract({"traceparent": parent}))
    try:
        yield
    finally:
        context.detach(token)


def sandbox_attributes(context: SandboxContext) -> Attributes:
    """Return what spans say of a sandbox."""
    return {
        "pyisolate.sandbox": context.sandbox,
        "pyisolate.sandbox_id": context.sandbox_id,
        "pyisolate.isolation": context.isolation,
        "security_rule.ruleset.name": context.policy,
        "security_rule.version": context.policy_version,
    }


class NoSpan:
    """Stands for a span where no spans are made."""

    def __enter__(self) -> NoSpan:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        pass

    def set(self, attributes: Callable[[], Attributes]) -> None:
        """Take attributes; `attributes` is not called where no spans are made."""


class _Span(NoSpan):
    """The current span of this thread while it is entered. One that is left by an error has its type as status."""

    def __init__(self, tracer: Any, name: str, attributes: Attributes) -> None:
        self._manager = tracer.start_as_current_span(
            name, attributes=dict(attributes), record_exception=False, set_status_on_exception=False
        )

    def __enter__(self) -> _Span:
        self._span = self._manager.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is not None:
            from opentelemetry.trace import StatusCode

            # Its type alone: the text of a guest's exception is the guest's.
            self._span.set_attribute("error.type", kind.__qualname__)
            self._span.set_status(StatusCode.ERROR, kind.__qualname__)
        self._manager.__exit__(None, None, None)

    def set(self, attributes: Callable[[], Attributes]) -> None:
        self._span.set_attributes(dict(attributes()))


_NO_SPAN = NoSpan()


def span(name: str, attributes: Callable[[], Attributes]) -> NoSpan:
    """Return a span to enter; `attributes` is called only where spans are made."""
    tracer = _tracer
    return _NO_SPAN if tracer is None else _Span(tracer, name, attributes())
