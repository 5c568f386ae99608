"""Translate errors of the host to `SandboxError`: what was done, why it failed, and what to do.

A host that is short of something meets it as an OSError, a MemoryError or a RuntimeError, far from what it asked for.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from ..errors import SandboxError
from ..native.result import advice, cause_of


def translate_host_error(operation: str, error: BaseException) -> BaseException:
    """Return a SandboxError that names the exhausted resource, or `error` itself."""
    if isinstance(error, SandboxError):
        return error
    hint: str | None = None
    if isinstance(error, OSError):
        number, text, hint = error.errno, cause_of(error), getattr(error, "hint", None)
        text += f" ({error.filename})" if error.filename else ""
    elif isinstance(error, MemoryError):
        number, text = errno.ENOMEM, "out of memory"
    elif isinstance(error, RuntimeError) and "start new thread" in str(error):  # threading.Thread.start
        number, text = errno.EAGAIN, str(error)
    else:
        return error
    return SandboxError(operation=operation, cause=text, hint=hint or advice(number), errno=number)


@contextlib.contextmanager
def host_error_context(operation: str) -> Iterator[None]:
    """Translate host errors (EMFILE, ENOMEM ...) raised in this block into SandboxError."""
    try:
        yield
    except Exception as error:
        better = translate_host_error(operation, error)
        if better is error:
            raise
        raise better from error
