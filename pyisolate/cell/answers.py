"""What a cell answers to a request: a value, or what the guest raised."""

from __future__ import annotations

from typing import Any

from ..hooks.attribution import number_of, raised_by_guest
from . import values, wire
from .own_builtins import Restored
from .tracebacks import plain_traceback, traceback_text


def done(request: wire.Request, value: Any) -> wire.Done:
    """Return the answer that carries a value. Raises TypeError, ValueError where it cannot be sent."""
    try:
        encoded, is_repr = _encoded(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{request.kind}: the value is {type(value).__name__}: {error}") from None
    return wire.Done(id=request.id, encoded=encoded, is_repr=is_repr)


def _encoded(value: Any) -> tuple[bytes, bool]:
    try:
        return values.encode(value, values.represent)
    except (TypeError, ValueError):
        with Restored():  # the library that it uses fails by what the guest has replaced
            return values.encode(value, values.represent)


def failed(
    request: wire.Request, error: BaseException, sequence: int | None, *, shown: bool, made_no_process: bool = False
) -> wire.Failed:
    """Return the answer that tells what was raised; `sequence` is that of its refusal, `shown`: a hook printed it."""
    with Restored():  # `traceback` works with nearly all of them
        try:
            message = str(error)
        except BaseException:
            message = "<the exception's own text raised>"
        try:
            text = traceback_text(error)
        except Exception:  # the guest has replaced what it works with (`linecache`, `traceback`)
            text = plain_traceback(error, message)
    return wire.Failed(
        id=request.id,
        type_name=type(error).__qualname__[: wire.MAX_TYPE_NAME_CHARS],
        message=_clean(message)[: wire.MAX_MESSAGE_CHARS],
        traceback=_clean(text)[-wire.MAX_TRACEBACK_CHARS :],
        sequence=sequence,
        errno=number_of(error),
        raised_by_guest=raised_by_guest(error),
        shown=shown,
        made_no_process=made_no_process,
    )


def _clean(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
