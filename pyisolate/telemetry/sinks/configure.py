"""The process's sinks, and how they are configured.

Strongest first: the argument (`Supervisor(sinks=...)`, `pyisolate.set_event_sinks(...)`), a file named by
`PYISOLATE_SINKS_FILE` (YAML, TOML or JSON), then `PYISOLATE_AUDIT_LOG`, `PYISOLATE_WEBHOOK_URL` and
`PYISOLATE_WEBHOOK_KEY_FILE` or `PYISOLATE_WEBHOOK_KEY`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ...errors import PolicySyntaxError
from ...native.forked import call_in_child
from .protocol import EventSink

_lock = threading.Lock()


_sinks: tuple[EventSink, ...] | None = None
#: why the environment's sinks could not be made: every later event raises it, and reads no file again
_failure: Exception | None = None


def install_event_sinks(sinks: Sequence[EventSink]) -> None:
    """Replace the process's sinks. Internal: users call `pyisolate.set_event_sinks`, which asks for the token."""
    if not isinstance(sinks, Iterable):
        raise TypeError(f"set_event_sinks: must be a list of sinks, not {type(sinks).__name__}")
    for sink in sinks:
        if not isinstance(sink, EventSink):
            raise TypeError(f"set_event_sinks, on {type(sink).__name__}: it has no emit(event) and close()")
    global _sinks, _failure
    with _lock:
        _sinks, _failure = tuple(sinks), None


def get_event_sinks() -> tuple[EventSink, ...]:
    """Return the process's sinks; at first use those that the environment configures.

    Raises what `open_event_sinks` raises, every time, until the sinks are opened or replaced.
    """
    if _sinks is None and _failure is not None:
        raise _failure.with_traceback(None)
    return open_event_sinks()


def open_event_sinks() -> tuple[EventSink, ...]:
    """Make the sinks that the environment configures, unless the process has sinks. A supervisor's start calls it.

    Raises PolicySyntaxError for a file or key that is wrong, SandboxError for a sink that cannot be opened.
    """
    global _sinks, _failure
    with _lock:
        if _sinks is None:
            try:
                _sinks, _failure = tuple(sinks_from_environment(os.environ)), None
            except Exception as error:
                _failure = error
                raise
        return _sinks


_WEBHOOK_KEYS = ("PYISOLATE_WEBHOOK_KEY_FILE", "PYISOLATE_WEBHOOK_KEY")


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
    elif keys := [name for name in _WEBHOOK_KEYS if environ.get(name)]:
        raise PolicySyntaxError(
            f"event sinks: {keys[0]} is set without PYISOLATE_WEBHOOK_URL: no event would be sent",
            hint="set both, or neither",
        )
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

    def webhook(**options: Any) -> EventSink:
        from .webhook import WebhookSink  # loads urllib3

        return WebhookSink(**options)

    def otel(**options: Any) -> EventSink:
        from .otel import OTelSink

        return OTelSink(**options)

    makers: dict[str, Callable[..., EventSink]] = {"audit": AuditLog, "webhook": webhook, "otel": otel}
    if not isinstance(config, Mapping):
        raise PolicySyntaxError("event sinks: not a mapping", file=file, hint="start with `audit:` or `webhook:`")
    for name in config:
        if name not in makers:
            raise PolicySyntaxError(
                f"event sinks, key {name!r}: unknown", file=file, key=str(name), hint=f"known: {', '.join(makers)}"
            )
    sinks: list[EventSink] = []
    try:
        _make_sinks(config, makers, sinks, file)
    except BaseException:
        for sink in sinks:
            sink.close()
        raise
    return sinks


def _make_sinks(
    config: Mapping[str, Any], makers: Mapping[str, Callable[..., EventSink]], sinks: list[EventSink], file: str | None
) -> None:
    for name, options in config.items():
        for entry in options if isinstance(options, list) else [options]:
            try:
                sinks.append(makers[name](**(entry or {})))
            except (TypeError, ValueError) as error:
                raise PolicySyntaxError(f"event sinks, key {name!r}: {error}", file=file, key=str(name)) from error


@call_in_child
def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
