"""Tell a caller of a failed operation in our own words: what was done, why it failed, and what to do.

A host that is short of something meets it as an OSError, a MemoryError or a RuntimeError, far from what it asked for.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from .errors import SandboxError
from .native._result import advice


def told(operation: str, error: BaseException) -> BaseException:
    """Return what is raised for an error: a host that is short of something is told of which, in our own words."""
    if isinstance(error, SandboxError):
        return error
    if isinstance(error, OSError):
        number, text = error.errno, error.strerror or str(error)
        text += f" ({error.filename})" if error.filename else ""
    elif isinstance(error, MemoryError):
        number, text = errno.ENOMEM, "out of memory"
    elif isinstance(error, RuntimeError) and "start new thread" in str(error):  # threading.Thread.start
        number, text = errno.EAGAIN, str(error)
    else:
        return error
    return SandboxError(f"{operation}: {text}", hint=None if "Hint:" in text else advice(number))


@contextlib.contextmanager
def telling(operation: str) -> Iterator[None]:
    """Raise `told` of what is raised inside."""
    try:
        yield
    except Exception as error:
        better = told(operation, error)
        if better is error:
            raise
        raise better from error
