"""Events as OpenTelemetry log records (`pip install pyisolate[otel]`). Batches, retries and limits are the SDK's."""

from __future__ import annotations

from typing import Any

from ..errors import SandboxError
from .event import DenialEvent

#: Severity numbers, https://opentelemetry.io/docs/specs/otel/logs/data-model/#field-severitynumber
_INFO, _WARN = 9, 13
EVENT_NAME = "pyisolate.denial"


class OTelSink:
    """An `EventSink` that emits one log record per event, attributes `pyisolate.*`, body the event's one-line text.

    `provider` is a LoggerProvider (default: the process's global one). Raises SandboxError without the extra.
    """

    def __init__(self, provider: Any = None) -> None:
        try:
            from opentelemetry import _logs
        except ImportError as error:
            raise SandboxError(
                "OpenTelemetry sink: opentelemetry is not installed", hint="pip install 'pyisolate[otel]'"
            ) from error
        self._provider = provider if provider is not None else _logs.get_logger_provider()
        self._logger = self._provider.get_logger("pyisolate")
        self._record, self._severity = _logs.LogRecord, _logs.SeverityNumber

    def emit(self, event: DenialEvent) -> None:
        """Hand one record to the SDK."""
        level = _INFO if event.would_deny else _WARN
        record = self._record(
            timestamp=int(event.time * 1e9),
            severity_number=self._severity(level),
            severity_text="INFO" if event.would_deny else "WARN",
            body=str(event),
            attributes=attributes(event),
        )
        self._logger.emit(record)

    def close(self) -> None:
        """Flush the provider; it stays the caller's to shut down."""
        flush = getattr(self._provider, "force_flush", None)
        if flush is not None:
            flush()


def attributes(event: DenialEvent) -> dict[str, Any]:
    """Return an event as flat OpenTelemetry attributes; absent values are left out."""
    data = event.to_dict()
    actor = data.pop("actor") or {}
    suggestion = data.pop("suggestion")
    flat = {f"pyisolate.{name}": value for name, value in data.items() if value is not None}
    flat |= {f"pyisolate.actor.{name}": value for name, value in actor.items()}
    if suggestion is not None:
        import msgspec

        flat["pyisolate.suggestion"] = msgspec.json.encode(suggestion).decode()
    return {"event.name": EVENT_NAME, **flat}
