"""Calls whose Python frames end at the function that is called: guests see no frames of this package below theirs.

What runs and who may do what stays the same; only `f_back` ends there. CPython 3.11 to 3.13; elsewhere a plain call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import _native
from .result import check


def call_apart(function: Callable[..., Any], args: tuple[Any, ...] = (), kwargs: dict[str, Any] = {}) -> Any:  # noqa: B006 - read only
    """Return `function(*args, **kwargs)`, in which the frame of `function` is the outermost.

    In its place stands a function of C; this one serves a sub-interpreter, where no guest runs.
    """
    return function(*args, **kwargs)


def untraced(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of C that calls `function`: to a tracer or profiler of the guest's it is as one of C is.

    In its place, too, stands a function of C.
    """
    return function


check(_native.lib.frames_add(__name__.encode()), "add call_apart, untraced", hint="there was no memory for a function")
