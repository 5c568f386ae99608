"""Public exceptions. Text is "what, on what: why. Hint: what to do next."."""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .telemetry.event import DenialEvent


class SandboxError(Exception):
    """Base of every error that pyisolate raises on purpose. `stdout`, `stderr`: what a failed request had written."""

    stdout: str = ""
    stderr: str = ""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        self.hint = hint
        super().__init__(f"{message}. Hint: {hint}" if hint else message)


class PolicyError(SandboxError, PermissionError):
    """An operation was refused by the policy; `denial_event` tells which, by which layer and why."""

    def __init__(self, message: str, *, denial_event: DenialEvent | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.denial_event = denial_event

    @property
    def error_code(self) -> str | None:
        """The event's `code` (a `DenialCode` value), or None where no event could be attached."""
        return None if self.denial_event is None else str(self.denial_event.code)

    @property
    def requested_capability(self) -> str | None:
        """What the refused operation needed, as capability and target."""
        return None if self.denial_event is None else self.denial_event.requested_capability

    @property
    def presented_capability(self) -> str | None:
        """The nearest grant that the policy holds, or None."""
        return None if self.denial_event is None else self.denial_event.presented_capability


class PolicyAuthError(PolicyError):
    """A control operation was attempted without the token that guards it."""


class PolicySyntaxError(SandboxError, ValueError):
    """A policy text or object cannot be read. `file`, `line` (1-based) and `key` say where."""

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        line: int | None = None,
        key: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.file, self.line, self.key = file, line, key
        where = ":".join(str(part) for part in (file, line) if part is not None)
        super().__init__(f"{where}: {message}" if where else message, hint=hint)


class EnforcementError(SandboxError):
    """A rule cannot be enforced by this kernel at the granularity the policy states."""

    def __init__(
        self, message: str, *, rule: str | None = None, missing: str | None = None, hint: str | None = None
    ) -> None:
        self.rule, self.missing = rule, missing
        super().__init__(message, hint=hint)


class GuestError(SandboxError):
    """The guest raised. Type, message and traceback are text: no guest object ever reaches the host."""

    def __init__(self, type_name: str, message: str, traceback: str) -> None:
        self.type_name, self.message, self.traceback = type_name, message, traceback
        super().__init__(f"guest raised {type_name}: {message}")


class LimitExceeded(SandboxError):
    """A limit ended the request or the sandbox. `limit` names it; `used` and `allowed` share its unit."""

    def __init__(
        self,
        message: str,
        *,
        limit: str,
        used: float | None = None,
        allowed: float | None = None,
        denial_event: DenialEvent | None = None,
        hint: str | None = None,
    ) -> None:
        self.limit, self.used, self.allowed, self.denial_event = limit, used, allowed, denial_event
        super().__init__(message, hint=hint)


class TimeoutError(LimitExceeded, builtins.TimeoutError):
    """Wall-clock limit, or the `timeout` of one request or `recv`."""


class MemoryExceeded(LimitExceeded):
    """The sandbox's processes together used more memory than `limits.memory` (bytes)."""


class CPUExceeded(LimitExceeded):
    """The sandbox's processes together used more processor time than `limits.cpu` (seconds)."""


class OutputExceeded(LimitExceeded):
    """stdout and stderr together passed `limits.output` (bytes)."""


class ProcessesExceeded(LimitExceeded):
    """The guest asked for more processes and threads than `limits.processes`."""


class OpenFilesExceeded(LimitExceeded):
    """The guest asked for more descriptors than `limits.open_files`."""


class FileSizeExceeded(LimitExceeded):
    """The guest wrote a file past `limits.file_size` (bytes)."""


class MessagesExceeded(LimitExceeded):
    """The guest posted more messages than `limits.messages`, or one too large."""


class SandboxClosed(SandboxError):
    """The sandbox was closed or killed by the host before or during the request."""


class SandboxDied(SandboxError):
    """The sandbox ended by itself: `exit_status`, or `signal`, and the `last_words` it wrote to stderr."""

    def __init__(
        self,
        message: str,
        *,
        exit_status: int | None = None,
        signal: int | None = None,
        last_words: str = "",
        hint: str | None = None,
    ) -> None:
        self.exit_status, self.signal, self.last_words = exit_status, signal, last_words
        super().__init__(message, hint=hint)


def describe(error: BaseException) -> dict[str, Any]:
    """Return a plain-data description of an error: type, message, hint, code where it has one."""
    return {
        "type": type(error).__name__,
        "message": str(error),
        "hint": getattr(error, "hint", None),
        "code": getattr(error, "error_code", None),
    }
