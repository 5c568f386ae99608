"""Translate errors of the host to `SandboxError`: what was done, why it failed, and what to do.

A host that is short of something meets it as an OSError, a MemoryError or a RuntimeError, far from what it asked for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

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


@contextlib.contextmanager
def host_error_context(operation: str, *, leave: tuple[type[Exception], ...] | type[Exception] = ()) -> Iterator[None]:
    """Translate host errors (EMFILE, ENOMEM ...) raised in this block into SandboxError, but for those in `leave`."""
    try:
        yield
    except Exception as error:
        better = error if isinstance(error, leave) else translate_host_error(operation, error)
        if better is error:
            raise
        raise better from error
