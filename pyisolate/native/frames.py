"""Calls whose Python frames end at the function that is called: guests see no frames of this package below theirs.

What runs and who may do what stays the same; only `f_back` ends there. CPython 3.11 to 3.13; elsewhere a plain call.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

from . import _native
from .result import check

#: What a signature in a docstring can hold as a default (inspect, `_signature_fromstr`).
_LITERAL = (str, bytes, bool, int, float, tuple, type(None))


def call_apart(function: Callable[..., Any], args: tuple[Any, ...] = (), kwargs: dict[str, Any] = {}) -> Any:  # noqa: B006 - read only
    """Return `function(*args, **kwargs)`, in which the frame of `function` is the outermost.

    In its place stands a function of C; this one serves a sub-interpreter, where no guest runs.
    """
    return function(*args, **kwargs)


def stand_in(
    function: Callable[..., Any],
    then: Callable[..., Any] | None,
    name: str,
    module: str | None,
    doc: str | None,
    method: bool,
) -> Callable[..., Any]:
    """Return a function of C that calls `function`, and then `then` with the same arguments, where that is not None.

    In its place, too, stands a function of C.
    """
    return function


def traced(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return `function(*args, **kwargs)`, which tracers and profilers see, also within what is untraced.

    In its place, too, stands a function of C.
    """
    return function(*args, **kwargs)


check(
    _native.lib.frames_add(__name__.encode()),
    "add call_apart, stand_in, traced",
    hint="there was no memory for a function",
)


def untraced(
    function: Callable[..., Any], original: Any = None, *, method: bool = False, name: str = "", module: str = ""
) -> Any:
    """Return a function of C that calls `function`: to a tracer or profiler of the guest's it is as one of C is.

    It looks like `original`, or like `function` itself; `name` and `module` are those by which it is pickled.
    `method`: it is one of a class.
    """
    return _dressed(function, None, function if original is None else original, method, name, module)


def checked(check: Callable[..., Any], original: Any, *, module: str = "") -> Any:
    """Return a function of C that calls `check`, which no tracer sees, and then `original`, with the same arguments.

    It looks like `original`, of `module`. What `check` raises it raises.
    """
    return _dressed(check, original, original, False, "", module)


def _dressed(function: Any, then: Any, original: Any, method: bool, name: str, module: str) -> Any:
    name = name or getattr(original, "__name__", function.__name__)
    if isinstance(function, FunctionType) and function is not original:
        function.__qualname__ = name  # what it says of wrong arguments
    doc = f"{name}{signature}\n--\n\n" if (signature := _signature(original)) else ""
    of = module or getattr(original, "__module__", None)
    return stand_in(function, then, name, of, f"{doc}{original.__doc__ or ''}", method)


def _signature(original: Any) -> str | None:
    """Return a signature as functions of C have theirs in their docstrings (Objects/typeobject.c), None without one."""
    if (text := getattr(original, "__text_signature__", None)) is not None:
        return str(text)
    import inspect  # the host has no guests' functions to replace

    try:
        stated = inspect.signature(original)
    except (ValueError, TypeError):
        return None
    plain = [one.replace(annotation=one.empty) for one in stated.parameters.values()]
    if not all(one.default is one.empty or isinstance(one.default, _LITERAL) for one in plain):
        return None
    return str(stated.replace(parameters=plain, return_annotation=stated.empty))
