"""Events as OpenTelemetry log records (the extra `otel`). Batches, retries and limits are the SDK's."""

from __future__ import annotations

from typing import Any

from ...distribution import install_extra
from ...errors import SandboxError
from ..event import DenialEvent
from ..ocsf import endpoint_of
from ..tracing import read_callers

#: Severity numbers, https://opentelemetry.io/docs/specs/otel/logs/data-model/#field-severitynumber
_INFO, _WARN = 9, 13
EVENT_NAME = "pyisolate.denial"


class OTelSink:
    """An `EventSink` that emits one log record per event, event name `pyisolate.denial`, attributes
    `pyisolate.*` and those of the semantic conventions, body the event's one-line text, trace and span those of the
    caller of the request.

    `provider` is a LoggerProvider (default: the process's global one). Raises SandboxError without the extra.
    """

    def __init__(self, provider: Any = None) -> None:
        try:
            from opentelemetry import _logs
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise SandboxError(
                "OpenTelemetry sink: opentelemetry is not installed", hint=install_extra("otel")
            ) from error
        self._provider = provider if provider is not None else _logs.get_logger_provider()
        self._logger = self._provider.get_logger("pyisolate")
        self._record, self._severity = _logs.LogRecord, _logs.SeverityNumber
        self._propagator = TraceContextTextMapPropagator()
        read_callers()

    def emit(self, event: DenialEvent) -> None:
        """Hand one record to the SDK."""
        level = _INFO if event.would_deny else _WARN
        record = self._record(
            timestamp=int(event.time * 1e9),
            severity_number=self._severity(level),
            severity_text="INFO" if event.would_deny else "WARN",
            body=str(event),
            attributes=attributes(event),
            event_name=EVENT_NAME,
            context=None if event.traceparent is None else self._propagator.extract({"traceparent": event.traceparent}),
        )
        self._logger.emit(record)

    def close(self) -> None:
        """Flush the provider; it stays the caller's to shut down."""
        flush = getattr(self._provider, "force_flush", None)
        if flush is not None:
            flush()


def attributes(event: DenialEvent) -> dict[str, Any]:
    """Return an event as flat OpenTelemetry attributes; absent values are left out.

    What the semantic conventions have a name for has that name too: https://opentelemetry.io/docs/specs/semconv/.
    """
    data = event.to_dict()
    actor = data.pop("actor") or {}
    suggestion = data.pop("suggestion")
    data.pop("traceparent")  # the record's own context
    flat = {f"pyisolate.{name}": value for name, value in data.items() if value is not None}
    flat |= {f"pyisolate.actor.{name}": value for name, value in actor.items()}
    if suggestion is not None:
        import msgspec

        flat["pyisolate.suggestion"] = msgspec.json.encode(suggestion).decode()
    return flat | _conventional(event)


def _conventional(event: DenialEvent) -> dict[str, Any]:
    named: dict[str, Any] = {
        "process.pid": event.pid,
        "thread.id": event.tid,
        "security_rule.ruleset.name": event.policy,
        "security_rule.version": event.policy_version,
        "security_rule.name": event.policy_rule,
        "security_rule.description": event.rule_reason,
        "user.id": None if event.actor is None else event.actor.id,
    }
    group, endpoint = event.capability.value.partition(".")[0], endpoint_of(event.target)
    if group == "fs":
        named |= {"file.path": event.target, "file.name": event.target.rpartition("/")[2]}
    elif group == "net" and endpoint is not None:
        named |= {"server.address": endpoint[0], "server.port": endpoint[1]}
    elif event.capability.value == "process.exec":
        named["process.executable.path"] = event.target
    return {name: value for name, value in named.items() if value is not None}
