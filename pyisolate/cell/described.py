"""A function of the host as its guest knows it: what crosses the wire, and the stub that guest code calls.

Only text crosses: names, annotations and defaults as they would be written. No repr of an object of the host is in it.
"""

from __future__ import annotations

import builtins
import inspect
import keyword
from collections.abc import Callable
from typing import Any

import msgspec

from ..errors import HostFunctionError, PolicyError

#: Longest docstring, annotation and default that a guest is shown (characters).
_DOC_CHARS, _TEXT_CHARS = 16 << 10, 200
_PLAIN = (type(None), bool, int, float, str, bytes)
#: Sends a call and waits: name, seconds or None, arguments by position and by name.
Call = Callable[[str, "float | None", tuple[Any, ...], dict[str, Any]], Any]


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """One parameter; `kind` is the number that `inspect` gives to it, None stands for no default or annotation."""

    name: str
    kind: int
    default: str | None = None
    annotation: str | None = None


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """One function: what `help` and `inspect.signature` show of it in the guest, and how long a call may take."""

    name: str
    doc: str = ""
    parameters: tuple[Parameter, ...] | None = None
    returns: str | None = None
    timeout_s: float | None = None


def describe(name: str, function: Callable[..., Any], timeout_s: float | None) -> Description:
    """Return what a guest may know of a function. Raises ValueError for a name that code cannot call."""
    if not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(f"functions: {name!r}: must be a name that code can call")
    parameters = returns = None
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some of C have none
        pass
    else:
        parameters = tuple(_parameter(one) for one in signature.parameters.values())
        returns = _annotation(signature.return_annotation)
    doc = (inspect.getdoc(function) or "")[:_DOC_CHARS]
    return Description(name=name, doc=doc, parameters=parameters, returns=returns, timeout_s=timeout_s)


def _parameter(one: inspect.Parameter) -> Parameter:
    default = None if one.default is inspect.Parameter.empty else _default(one.default)
    return Parameter(name=one.name, kind=int(one.kind), default=default, annotation=_annotation(one.annotation))


def _default(value: object) -> str:
    # the repr of anything else may hold an address of the host's memory, or what it was made of
    text = repr(value) if type(value) in _PLAIN else "..."
    return text if len(text) <= _TEXT_CHARS else "..."


def _annotation(annotation: object) -> str | None:
    if annotation is inspect.Signature.empty:
        return None
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return None if " at 0x" in text or len(text) > _TEXT_CHARS else text


class _Shown:
    """Stands for a value of the host's and shows as its text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _signature(described: Description) -> inspect.Signature:
    empty = inspect.Parameter.empty
    return inspect.Signature(
        [
            inspect.Parameter(
                one.name,
                _KINDS[one.kind],
                default=empty if one.default is None else _Shown(one.default),
                annotation=empty if one.annotation is None else _Shown(one.annotation),
            )
            for one in described.parameters or ()
        ],
        return_annotation=empty if described.returns is None else _Shown(described.returns),
        __validate_parameters__=False,
    )


_KINDS = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.VAR_POSITIONAL,
    inspect.Parameter.KEYWORD_ONLY,
    inspect.Parameter.VAR_KEYWORD,
)


def stub(described: Description, call: Call) -> Callable[..., Any]:
    """Return the function that a guest calls; the host checks the arguments."""
    name, timeout_s = described.name, described.timeout_s

    def host_function(*args: Any, **kwargs: Any) -> Any:
        return call(name, timeout_s, args, kwargs)

    host_function.__name__ = host_function.__qualname__ = name
    host_function.__doc__, host_function.__module__ = described.doc or None, "__main__"
    if described.parameters is not None:
        host_function.__signature__ = _signature(described)  # type: ignore[attr-defined]
    return host_function


def stub_text(described: Description) -> str:
    """Return a function as a type stub has it, for models and editors."""
    signature = "(*args, **kwargs)" if described.parameters is None else str(_signature(described))
    lines = [f"def {described.name}{signature}:"]
    if described.doc:
        quoted = described.doc.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
        lines += [f"    {line}".rstrip() for line in f'"""{quoted}"""'.splitlines()]
    return "\n".join([*lines, "    ..."])


def error_of(name: str, type_name: str, message: str, errno: int | None) -> Exception:
    """Return what a call raises in the guest: a builtin exception of that name, PolicyError, or HostFunctionError."""
    if type_name == "PolicyError":
        return PolicyError(message)
    kind = getattr(builtins, type_name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(message) if errno is None else kind(errno, message)
        except TypeError:
            pass  # one that needs arguments of its own, such as UnicodeDecodeError
    return HostFunctionError(name, type_name, message)
