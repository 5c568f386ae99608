"""Where events go besides the store: the `EventSink` Protocol, the process's sinks, and how they are configured.

Configuration, strongest first: the argument (`Recorder(sinks=...)`, `set_event_sinks(...)`), a file named by
`PYISOLATE_SINKS_FILE` (YAML, TOML or JSON), then `PYISOLATE_AUDIT_LOG`, `PYISOLATE_WEBHOOK_URL` and
`PYISOLATE_WEBHOOK_KEY_FILE` or `PYISOLATE_WEBHOOK_KEY`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import msgspec

from ..errors import PolicySyntaxError
from .event import DenialEvent


@runtime_checkable
class EventSink(Protocol):
    """Takes events. Called from one thread at a time, off the refusal's path, unless `immediate` is true."""

    def emit(self, event: DenialEvent) -> None:
        """Take one event. Whatever it raises is counted and logged, and stops nothing else."""
        ...

    def close(self) -> None:
        """Flush and let go of resources; `emit` is not called again."""
        ...


def is_immediate(sink: EventSink) -> bool:
    """Tell whether the sink asks to be called before the refusal is seen (it promises not to block)."""
    return bool(getattr(sink, "immediate", False))


_lock = threading.Lock()
_sinks: tuple[EventSink, ...] | None = None


def set_event_sinks(sinks: Sequence[EventSink], *, token: str | None = None) -> None:
    """Replace the process's sinks, used by every recorder without its own. The old ones are not closed.

    Raises PolicyAuthError where `set_policy_token` guards it and `token` is another.
    """
    from ..control import check_token

    check_token(token, "metrics", target="event sinks")
    for sink in sinks:
        if not isinstance(sink, EventSink):
            raise TypeError(f"set_event_sinks, on {type(sink).__name__}: it has no emit(event) and close()")
    global _sinks
    with _lock:
        _sinks = tuple(sinks)


def get_event_sinks() -> tuple[EventSink, ...]:
    """Return the process's sinks; at first use those that the environment configures."""
    global _sinks
    sinks = _sinks
    if sinks is None:
        with _lock:
            if _sinks is None:
                _sinks = ()  # a configuration that cannot be read is reported once, not with every event
                _sinks = tuple(sinks_from_environment(os.environ))
            sinks = _sinks
    return sinks


def sinks_from_environment(environ: Mapping[str, str]) -> list[EventSink]:
    """Return the sinks that `PYISOLATE_SINKS_FILE`, or the single variables, ask for."""
    if path := environ.get("PYISOLATE_SINKS_FILE"):
        return sinks_from_file(path)
    config: dict[str, Any] = {}
    if log := environ.get("PYISOLATE_AUDIT_LOG"):
        config["audit"] = {"path": log}
    if url := environ.get("PYISOLATE_WEBHOOK_URL"):
        config["webhook"] = {"url": url}
        for name in ("key_file", "key"):
            if value := environ.get(f"PYISOLATE_WEBHOOK_{name.upper()}"):
                config["webhook"][name] = value
                break
    return sinks_from_config(config)


def sinks_from_file(path: str | os.PathLike[str]) -> list[EventSink]:
    """Return the sinks that a YAML, TOML or JSON file asks for. Raises PolicySyntaxError naming file and key."""
    file = Path(path)
    try:
        text = file.read_bytes()
        config = _decode(text, file.suffix)
    except (OSError, msgspec.DecodeError, ValueError) as error:
        raise PolicySyntaxError(f"event sinks cannot be read: {error}", file=str(file)) from error
    return sinks_from_config(config, file=str(file))


def _decode(text: bytes, suffix: str) -> Any:
    if suffix == ".toml":
        return msgspec.toml.decode(text)
    return msgspec.json.decode(text) if suffix == ".json" else msgspec.yaml.decode(text)


def sinks_from_config(config: object, *, file: str | None = None) -> list[EventSink]:
    """Return the sinks of `{audit: {path, ...}, webhook: {url, key_file, ...}, otel: {}}`; unknown keys are errors."""
    from .audit import AuditLog
    from .webhook import WebhookSink

    def otel(**options: Any) -> EventSink:
        from .otel import OTelSink

        return OTelSink(**options)

    makers: dict[str, Callable[..., EventSink]] = {"audit": AuditLog, "webhook": WebhookSink, "otel": otel}
    if not isinstance(config, Mapping):
        raise PolicySyntaxError("event sinks: not a mapping", file=file, hint="start with `audit:` or `webhook:`")
    sinks: list[EventSink] = []
    for name, options in config.items():
        if name not in makers:
            raise PolicySyntaxError(
                f"event sinks, key {name!r}: unknown", file=file, key=str(name), hint=f"known: {', '.join(makers)}"
            )
        for entry in options if isinstance(options, list) else [options]:
            try:
                sinks.append(makers[name](**(entry or {})))
            except (TypeError, ValueError) as error:
                raise PolicySyntaxError(f"event sinks, key {name!r}: {error}", file=file, key=str(name)) from error
    return sinks


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
