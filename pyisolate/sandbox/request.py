"""A request: what is to run, the same for both isolations, and its form on the wire for a cell."""

from __future__ import annotations

import functools
import io
import os
import pickle
import sys
import threading
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from ..cell import wire
from ..native.forked import call_in_child
from .stdin import Stdin

if TYPE_CHECKING:
    from ..policy import Policy

Kind = Literal["exec", "script", "eval", "call", "command", "launch"]

#: By this name a function that `sandboxed` made holds a Wrapped.
RUNS_IN_A_SANDBOX = "__pyisolate_plain__"
_PLAIN = frozenset({type(None), bool, float, bytes})
_registry_lock = threading.Lock()


@call_in_child
def _after_fork_in_child() -> None:
    global _registry_lock
    _registry_lock = threading.Lock()


@dataclass(frozen=True)
class PickledCall:
    """A function with its arguments, pickled by `pickle_by_value` in another process: sent on to a guest unread."""

    payload: bytes

    def __call__(self) -> Any:
        """Raise TypeError: only a guest may unpickle it."""
        raise TypeError("call: a PickledCall is for a sandbox's `call`, without arguments")


@dataclass(frozen=True)
class Wrapped:
    """What a function of `sandboxed` was made of: the plain function, and what tells its policy on the host."""

    function: Callable[..., Any]
    choose: Callable[[], Policy]

    def __reduce__(self) -> Any:
        return type(None), ()  # a decorator around it has this too, and a guest has no such module

    def plain_under(self, policy: Policy) -> Callable[..., Any]:
        """Return the function, for a guest of this policy. Raises TypeError where the guest may do what it may not."""
        from ..policy.diff import diff  # first starts of most commands do without it

        own = self.choose()
        if own != policy and any(one.effect == "widened" for one in diff(own, policy)):
            raise TypeError(
                f"call: {self.function.__qualname__} is sandboxed by a policy of its own, {own.name!r}, and would run "
                f"here under {policy.name!r}, which grants more. Hint: call it on the host and pass on what it "
                "returns, or give both the same policy"
            )
        return self.function


class Work(msgspec.Struct, frozen=True):
    """What one request runs: source text (exec, script, eval), a callable (call), or a program (command).

    A program that a request only starts (launch) has `pipes`, which ride along.
    """

    kind: Kind
    source: str = ""
    filename: str = ""
    #: `sys.argv` from this request on; empty: as it is
    argv: tuple[str, ...] = ()
    stdin: Stdin | None = None
    pipes: tuple[int, ...] = ()
    #: of a call: "module.function", a name that the guest defined, or a callable of the host's
    function: str | Callable[..., Any] = ""
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}


def encode(work: Work, policy: Policy) -> wire.Request:
    """Return the frame that asks a cell of this policy for it, without its number.

    Arguments and callables travel by cloudpickle, host to guest only, where they are not plain; what cannot be pickled
    raises here, before the cell knows of a request.
    """
    if work.kind in ("command", "launch"):
        payload = pickle.dumps(work.args)
        return wire.Request(kind=work.kind, payload=payload, stdin=work.stdin is not None)
    if work.kind != "call":
        return wire.Request(
            kind=work.kind,
            source=work.source,
            filename=work.filename,
            argv=work.argv,
            stdin=work.stdin is not None,
        )
    args, kwargs = work.args, work.kwargs
    if isinstance(work.function, str):
        if all(map(_is_plain, args)) and (not kwargs or all(map(_is_plain, (*kwargs, *kwargs.values())))):
            return wire.Request(kind="call", source=work.function, args=args, kwargs=kwargs)
        import cloudpickle  # first starts of most commands do without it

        payload = bytes(cloudpickle.dumps((args, kwargs)))
        return wire.Request(kind="call", source=work.function, payload=payload)
    if isinstance(work.function, PickledCall):
        payload = work.function.payload
    else:
        payload = pickle_by_value(work.function, args, kwargs, policy)
    return wire.Request(kind="function", payload=payload)


def _is_plain(value: object) -> bool:
    """Say whether an argument is the same in msgpack, and quickly found to be: numbers, ASCII texts, bytes."""
    kind = type(value)
    if kind is str:
        return value.isascii()  # type: ignore[attr-defined, no-any-return]
    return kind in _PLAIN if kind is not int else -(1 << 63) <= value < 1 << 64  # type: ignore[operator]


def check_text(what: str, text: object) -> str:
    """Return `text` where it is text that can be sent. Raises TypeError, ValueError (lone surrogates)."""
    if not isinstance(text, str):
        raise TypeError(f"{what}: must be str, not {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{what}: holds a lone surrogate at {error.start}, which is no character. "
            "Hint: text.encode('utf-8', 'replace').decode()"
        ) from None
    return text


def check_argv(what: str, argv: object) -> tuple[str, ...]:
    """Return `sys.argv` as it can be sent; nothing for None. Raises TypeError, ValueError (empty)."""
    if argv is None:
        return ()
    if isinstance(argv, str | bytes) or not isinstance(argv, Iterable):
        raise TypeError(f"{what}: must be a list of str, not {type(argv).__name__}")
    texts = (os.fspath(one) if isinstance(one, os.PathLike) else one for one in argv)
    if not (checked := tuple(check_text(what, one) for one in texts)):
        raise ValueError(f"{what}: is empty: the first one names the program")
    return checked


def check_mapping(what: str, given: object, such_as: str) -> dict[Any, Any]:
    """Return a copy of a mapping, an empty one for None. Raises TypeError."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(f"{what}: must be a mapping, such as {such_as}, not {type(given).__name__}")
    return dict(given)


def check_names(what: str, given: object) -> tuple[str, ...]:
    """Return names, none for None. Raises TypeError for one text: its letters are no names."""
    if given is None:
        return ()
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise TypeError(f"{what}: must be a list of names, such as ['json'], not {type(given).__name__}")
    return tuple(check_text(what, one) for one in given)


def check_seconds(what: str, seconds: object) -> None:
    """Raise TypeError for what is no number of seconds, or None; ValueError for one below 0, or NaN."""
    if seconds is None:
        return
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"{what}: must be seconds, as int or float, not {type(seconds).__name__}")
    if not seconds >= 0:
        raise ValueError(f"{what} {seconds!r}: must be 0 or more seconds, or None for no bound")


def pickle_by_value(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], policy: Policy
) -> bytes:
    """Pickle host functions with their code: the guest cannot read the modules they are defined in.

    `policy`: the guest's. Raises TypeError where one is sandboxed by a narrower policy of its own.
    """
    import cloudpickle  # see above

    modules = {sys.modules.get(getattr(one, "__module__", None) or "") for one in _callables(function, args)}
    ours = [one for one in modules if one and one.__name__.partition(".")[0] not in sys.stdlib_module_names]
    # the registry is the whole process's, and counts nothing: another thread's end would be ours
    with _registry_lock:
        theirs = cloudpickle.list_registry_pickle_by_value()
        ours = [module for module in ours if module.__name__ not in theirs]
        for module in ours:
            cloudpickle.register_pickle_by_value(module)
        try:
            return _pickle_of((function, args, kwargs), policy)
        finally:
            for module in ours:
                cloudpickle.unregister_pickle_by_value(module)


def _pickle_of(value: object, policy: Policy) -> bytes:
    with io.BytesIO() as file:
        pickler = _pickler()(file)
        pickler.policy = policy
        pickler.dump(value)
        return file.getvalue()


@functools.cache
def _pickler() -> Any:
    """Return the class that pickles for guests: what `sandboxed` wraps goes plain, for it will run in a sandbox."""
    import cloudpickle  # see above

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc] # a module without types
        policy: Policy

        def reducer_override(self, obj: Any) -> Any:
            if type(obj) is types.FunctionType:
                wrapped = obj.__dict__.get(RUNS_IN_A_SANDBOX)
                # another decorator around it has a copy of its names
                if wrapped is not None and obj.__dict__.get("__wrapped__") is wrapped.function:
                    obj = wrapped.plain_under(self.policy)
            return super().reducer_override(obj)

    return Pickler


def _callables(function: Callable[..., Any], args: tuple[Any, ...]) -> Iterator[Callable[..., Any]]:
    """Yield what is called: the function, those that partials hold, and those among the arguments."""
    if isinstance(function, functools.partial):
        yield from _callables(function.func, function.args)
    else:
        yield function
    yield from (one for one in args if callable(one))


def is_callers(budget: float | None, timeout: float | None) -> bool:
    """Tell whether a request's time was what its caller allowed, and not `limits.wall`."""
    return timeout is not None and timeout == budget
