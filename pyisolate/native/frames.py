"""Calls whose Python frames end at the function that is called: guests see no frames of this package below theirs.

What runs and who may do what stays the same; only `f_back` ends there. CPython 3.11 to 3.13; elsewhere a plain call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from . import _native
from .result import check

check(_native.lib.frames_add(__name__.encode()), "add call_apart", hint="there was no memory for a function")
#: None in a sub-interpreter, where no guest runs
_call: Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any] | None = globals().get("call_apart")


def call_apart(
    function: Callable[..., Any], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
) -> Any:
    """Return `function(*args, **kwargs)`, in which the frame of `function` is the outermost."""
    if _call is None:
        return function(*args, **kwargs or {})
    return _call(function, args, {} if kwargs is None else dict(kwargs))
