"""Translate errors of the host to `SandboxError`: what was done, why it failed, and what to do.

A host that is short of something meets it as an OSError, a MemoryError or a RuntimeError, far from what it asked for.
"""

from __future__ import annotations

from types import TracebackType

from ..errors import SandboxError
from ..native.result import advice, cause_in_host


def translate_host_error(operation: str, error: BaseException) -> BaseException:
    """Return a SandboxError that names the exhausted resource, or `error` itself."""
    if isinstance(error, SandboxError):
        return error
    if (met := cause_in_host(error)) is None:
        return error
    text, number = met
    hint = getattr(error, "hint", None) if isinstance(error, OSError) else None
    if isinstance(error, OSError) and error.filename:
        text += f" ({error.filename})"
    return SandboxError(operation=operation, cause=text, hint=hint or advice(number), errno=number)


class host_error_context:
    """Translate host errors (EMFILE, ENOMEM ...) raised in this block into SandboxError, but for those in `leave`.

    A class, where a generator would do and take more time: each `spawn` enters three (docs/benchmarks.md).
    """

    __slots__ = ("_leave", "_operation")

    def __init__(self, operation: str, *, leave: tuple[type[Exception], ...] | type[Exception] = ()) -> None:
        self._operation, self._leave = operation, leave

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if not isinstance(error, Exception) or isinstance(error, self._leave):
            return
        better = translate_host_error(self._operation, error)
        if better is not error:
            raise better from error
