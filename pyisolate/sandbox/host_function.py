"""Functions of the host that a guest may call: what runs them, how often, for how long, and what the guest learns.

The thread that reads a cell's frames only queues a call. Threads of the supervisor's decode its arguments and run it, a
few at a time for each function; the threads that read for other sandboxes wait for none of them.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import contextvars
import functools
import inspect
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ..actor import Caller, called_by
from ..capability import Capability
from ..cell import values, wire
from ..cell.described import Description, describe
from ..decision import DenialCode
from ..errors import PolicyError, SandboxError
from ..telemetry.policy_error import policy_error
from .attendant import Attendant
from .request import check_mapping

if TYPE_CHECKING:
    import asyncio

    from ..telemetry.event import DenialEvent

_log = logging.getLogger("pyisolate.sandbox.host_function")
#: Calls of one sandbox that wait to be run, and the bytes of their arguments: past either it is ended.
_MAX_WAITING, _MAX_WAITING_BYTES = 1024, 64 << 20
_MESSAGE_CHARS = 4096
#: After so much work for calls that are refused (seconds) a thread rests so many times as long: others have their turn.
_REFUSES_S, _RESTS = 0.001, 3
#: How long a thread that ran a cell's call waits for its next one (seconds): as long as a guest goes on calling.
_LINGER_S = 0.005

Outcome = Literal["returned", "raised", "refused", "timeout", "cancelled"]


@dataclass(frozen=True)
class HostFunction:
    """A function of the host with bounds of its own, for `spawn(functions=)`.

    `timeout`: seconds from call to answer (None: no bound); a coroutine is cancelled then, and what a plain function
    returns later is dropped. `max_calls`: calls in the life of one sandbox (None: no bound). `concurrency`: how many
    run at once for one sandbox; more wait. Raises ValueError for bounds that nothing can keep.
    """

    function: Callable[..., Any]
    timeout: float | None = 30.0
    max_calls: int | None = None
    concurrency: int = 4

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"functions: {self.function!r}: must be callable")
        for name, number, kinds in (
            ("timeout", self.timeout, (int, float)),
            ("max_calls", self.max_calls, int),
            ("concurrency", self.concurrency, int),
        ):
            if not isinstance(number, kinds) and (number is not None or name == "concurrency"):
                raise TypeError(f"functions: {name} {number!r}: must be a number, not {type(number).__name__}")
        if self.timeout is not None and not self.timeout > 0:
            raise ValueError(f"functions: timeout {self.timeout!r}: must be above 0 seconds, or None")
        if self.concurrency < 1 or (self.max_calls is not None and self.max_calls < 0):
            raise ValueError("functions: concurrency must be at least 1, and max_calls not below 0")


#: What `spawn(functions=)` takes: the guest's name for each function.
FunctionsLike = Mapping[str, "Callable[..., Any] | HostFunction"]


@dataclass(frozen=True)
class Offer:
    """Functions as one call of `spawn` gave them: with its context variables, and its event loop if it was in one."""

    functions: Mapping[str, HostFunction]
    descriptions: tuple[Description, ...]
    context: contextvars.Context
    loop: asyncio.AbstractEventLoop | None = None


def make_offer(functions: FunctionsLike | Offer, loop: asyncio.AbstractEventLoop | None = None) -> Offer:
    """Check functions and describe them. Raises TypeError, ValueError."""
    if isinstance(functions, Offer):
        return functions
    given = check_mapping("functions", functions, "{'price_of': price_of}")
    known = {name: one if isinstance(one, HostFunction) else HostFunction(one) for name, one in given.items()}
    for name in known:
        if not isinstance(name, str) or len(name) > wire.MAX_FUNCTION_NAME_CHARS or name in ("post", "recv", "display"):
            raise ValueError(f"functions: {name!r}: must be a name of its own, and short")
    described = tuple(describe(name, one.function, one.timeout) for name, one in known.items())
    return Offer(known, described, contextvars.copy_context(), loop)


class Surroundings(Protocol):
    """What running functions needs of the session and its supervisor."""

    def answer_call(self, answer: wire.HostAnswer) -> None:
        """Send the guest what came of a call."""

    def end(self, reason: str) -> None:
        """End the sandbox."""

    def refuse(self, capability: Capability, target: str, code: DenialCode, reason: str) -> DenialEvent:
        """Record a refusal of the host's."""
        ...

    def count_call(self, outcome: Outcome) -> None:
        """Count a call."""

    def caller(self) -> Caller:
        """Return who calls, for guards."""
        ...

    def start_call(self, call: Callable[[], None]) -> None:
        """Run `call` on a thread of the supervisor's own."""

    def event_loop(self) -> asyncio.AbstractEventLoop:
        """Return the supervisor's own event loop."""
        ...


@dataclass(eq=False)
class _Call:
    frame: wire.HostCall
    deadline: float | None
    future: concurrent.futures.Future[Any] | None = None
    given_up: bool = False
    #: which one of its function's calls it is
    ordinal: int = 0


@dataclass(eq=False)
class _Known:
    """One function's state in one sandbox. `run` is None for names that the guest made up."""

    run: HostFunction | None
    context: contextvars.Context
    loop: asyncio.AbstractEventLoop | None = None
    signature: inspect.Signature | None = None
    #: how many arguments without names it takes, at least and at most; None: it needs some by name
    positional: tuple[int, float] | None = None
    calls: int = 0
    running: int = 0
    waiting: deque[_Call] = field(default_factory=deque)


class _TooLate(Exception):
    """The time of a call is over."""


class HostCalls:
    """The functions that one guest may call. Thread-safe."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._around = surroundings
        #: charges the guest for what its calls cost beside the functions themselves, in seconds; none for a thread's
        self.charge: Callable[[float], object] = lambda _processor_s: None
        self._known: dict[str, _Known] = {}
        self._unknown = _Known(None, contextvars.Context())
        self._lock = threading.Lock()
        self._waiting = self._waiting_bytes = 0
        self._active: set[_Call] = set()
        self._by_number: dict[int, _Call] = {}
        self._closed = False
        self._attendant = Attendant(lambda frame: self.take(frame, _run_here), linger_s=_LINGER_S)

    def add(self, offer: Offer) -> None:
        """Let the guest call these as well; one of the same name replaces an earlier one."""
        for name, run in offer.functions.items():
            signature = None
            try:
                signature = inspect.signature(run.function)
            except (TypeError, ValueError):  # some of C have none, and check their arguments themselves
                pass
            positional = None if signature is None else positional_of(signature)
            self._known[name] = _Known(run, offer.context, offer.loop, signature, positional)

    def take_next(self, frame: wire.HostCall) -> None:
        """Queue a call of a cell's. The thread that ran the one before runs it, where it still waits for one."""
        if not self._attendant.give(frame):
            self.take(frame, self._start_attended)

    def _start_attended(self, call: Callable[[], None]) -> None:
        self._around.start_call(functools.partial(self._attendant.serve, call))

    def take(self, frame: wire.HostCall, start: Callable[[Callable[[], None]], None] | None = None) -> None:
        """Queue a call. Never waits, and runs nothing of the host's here, unless `start` does with what it is given."""
        known = self._known.get(frame.name, self._unknown)
        timeout = None if known.run is None else known.run.timeout
        call = _Call(frame, None if timeout is None else time.monotonic() + timeout)
        with self._lock:
            if self._closed:
                return
            self._waiting += 1
            self._waiting_bytes += len(frame.arguments)
            if self._waiting > _MAX_WAITING or self._waiting_bytes > _MAX_WAITING_BYTES:
                self._closed = True
            known.waiting.append(call)
            self._by_number[frame.id] = call
            starts = not self._closed and known.running < (1 if known.run is None else known.run.concurrency)
            known.running += starts
        if starts:
            try:
                (start or self._around.start_call)(functools.partial(self._serve, known))
            except RuntimeError as error:  # no thread can be had
                self._leave_out(known, call, error)
        elif self._closed:
            self._flooded(frame.name)

    def _leave_out(self, known: _Known, call: _Call, error: RuntimeError) -> None:
        """Answer a call for which no thread could be started, unless one that runs takes it."""
        with self._lock:
            known.running -= 1
            if known.running or call not in known.waiting:
                return
            known.waiting.remove(call)
            self._waiting -= 1
            self._waiting_bytes -= len(call.frame.arguments)
            self._by_number.pop(call.frame.id, None)
        self._around.count_call("raised")
        self._around.answer_call(_raised(call.frame.id, error))

    def _flooded(self, name: str) -> None:
        reason = f"more than {_MAX_WAITING} calls, or {_MAX_WAITING_BYTES} bytes of arguments, wait to be run"
        self._around.refuse(Capability.CONTROL_CALL, name, DenialCode.LIMIT_EXCEEDED, reason)
        self._around.count_call("refused")
        self._around.end(f"calls of host functions: {reason}")

    def give_up(self, number: int) -> None:
        """Cancel the call of this number: its guest waits no longer. Never waits."""
        with self._lock:
            if (call := self._by_number.get(number)) is None:
                return
            call.given_up, future = True, call.future
        if future is not None:
            future.cancel()

    def close(self) -> None:
        """Cancel what runs as a coroutine and forget what waits. Never waits. Idempotent."""
        self._attendant.dismiss()
        with self._lock:
            self._closed = True
            futures = [call.future for call in self._active if call.future is not None]
        for future in futures:
            future.cancel()

    # -- on a thread of the supervisor ----------------------------------------------------------------------

    def _serve(self, known: _Known) -> None:
        refusing_s = 0.0
        while (call := self._next(known)) is not None:
            if refusing_s >= _REFUSES_S:  # else who asks for what it may not has the interpreter's lock all the time
                time.sleep(_RESTS * refusing_s)
                refusing_s = 0.0
            try:
                began = time.thread_time()
                outcome, answer = self._run(known, call)
                self._around.count_call(outcome)
                if outcome == "refused":
                    refusing_s += time.thread_time() - began
                if not self._closed and not call.given_up:
                    with self._charged():
                        self._around.answer_call(answer)
            finally:
                with self._lock:
                    self._active.discard(call)
                    if self._by_number.get(call.frame.id) is call:
                        del self._by_number[call.frame.id]

    def _next(self, known: _Known) -> _Call | None:
        with self._lock:
            if self._closed or not known.waiting:
                known.running -= 1
                return None
            call = known.waiting.popleft()
            self._waiting -= 1
            self._waiting_bytes -= len(call.frame.arguments)
            self._active.add(call)
            known.calls += 1
            call.ordinal = known.calls  # others are taken before this one is looked at
            return call

    def _run(self, known: _Known, call: _Call) -> tuple[Outcome, wire.HostAnswer]:
        name, number, run = call.frame.name, call.frame.id, known.run
        try:
            if call.given_up:
                raise concurrent.futures.CancelledError
            with self._charged():
                if run is None or (run.max_calls is not None and call.ordinal > run.max_calls):
                    raise self._refusal(name, run)
                args, kwargs = self._arguments(known, call)
            value = known.context.copy().run(self._invoke, known, call, args, kwargs)
            _check_time(known, call)
            try:
                with self._charged():
                    encoded, _ = values.encode(value)
            except (TypeError, ValueError) as error:
                raise type(error)(f"{name}: the value is {type(value).__name__}: {error}") from None
            return "returned", wire.Returned(id=number, encoded=encoded)
        except PolicyError as error:  # it has its event: the gate's, or that of a guard
            return "refused", wire.Raised(id=number, type_name="PolicyError", message=str(error)[:_MESSAGE_CHARS])
        except _TooLate as late:
            return "timeout", wire.Raised(id=number, type_name="TimeoutError", message=f"{name}: {late}")
        except concurrent.futures.CancelledError:
            return "cancelled", wire.Raised(id=number, type_name="CancelledError", message=f"{name} was cancelled")
        except BaseException as error:
            _log.debug("host function %s raised", name, exc_info=True)
            return "raised", _raised(number, error)

    @contextlib.contextmanager
    def _charged(self) -> Iterator[None]:
        """Charge the guest what is done for it within: not a function's own time, nor that of guards in it."""
        began = time.thread_time()
        try:
            yield
        finally:
            self.charge(time.thread_time() - began)

    def _refusal(self, name: str, run: HostFunction | None) -> PolicyError:
        code, reason = DenialCode.NOT_GRANTED, "no function of this name was given to the sandbox"
        if run is not None:
            code, reason = DenialCode.LIMIT_EXCEEDED, f"it may be called {run.max_calls} times (max_calls)"
        return policy_error(self._around.refuse(Capability.CONTROL_CALL, name, code, reason))

    def _arguments(self, known: _Known, call: _Call) -> tuple[list[Any], dict[str, Any]]:
        try:
            decoded = wire.decode_value(call.frame.arguments)
            if type(decoded) is not list or [type(part) for part in decoded] != [list, dict]:
                raise wire.WireError("arguments that are no list and dict")
            args, kwargs = decoded
            if not all(type(key) is str for key in kwargs):
                raise wire.WireError("arguments whose names are no text")
        except wire.WireError as error:
            self._around.end(f"protocol violation: {error}")
            raise
        if known.signature is not None and not fits(known.positional, args, kwargs):  # `bind` takes 3 us
            try:
                known.signature.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{call.frame.name}: {error}") from None
        return args, kwargs

    def _invoke(self, known: _Known, call: _Call, args: list[Any], kwargs: dict[str, Any]) -> Any:
        assert known.run is not None
        _check_time(known, call)  # it may have waited long for its turn
        with called_by(self._around.caller()):
            value = known.run.function(*args, **kwargs)
            if not inspect.isawaitable(value):
                return value
            import asyncio

            loop = known.loop or self._around.event_loop()
            future = asyncio.run_coroutine_threadsafe(_awaited(value), loop)
            with self._lock:
                call.future = future
                unwanted = self._closed or call.given_up
        if unwanted:
            future.cancel()
        left = None if call.deadline is None else max(0.0, call.deadline - time.monotonic())
        done, _ = concurrent.futures.wait([future], left)
        if not done:
            future.cancel()
            _check_time(known, call)
        return future.result()


def _run_here(call: Callable[[], None]) -> None:
    call()


def positional_of(signature: inspect.Signature) -> tuple[int, float] | None:
    """Return how many arguments without names a function takes, at least and at most; None: it needs some by name."""
    least, most = 0, 0.0
    for one in signature.parameters.values():
        needed = one.default is inspect.Parameter.empty
        if one.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD):
            least, most = least + needed, most + 1
        elif one.kind is inspect.Parameter.VAR_POSITIONAL:
            most = math.inf
        elif one.kind is inspect.Parameter.KEYWORD_ONLY and needed:
            return None
    return least, most


def fits(positional: tuple[int, float] | None, args: list[Any], kwargs: dict[str, Any]) -> bool:
    """Tell whether arguments fit a signature for sure: those without names alone, by their number."""
    return positional is not None and not kwargs and positional[0] <= len(args) <= positional[1]


def _check_time(known: _Known, call: _Call) -> None:
    if call.deadline is not None and time.monotonic() >= call.deadline:
        raise _TooLate(f"no answer within {known.run and known.run.timeout} s")


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value


def _raised(number: int, error: BaseException) -> wire.Raised:
    """Return type and message of an exception. An OSError's file names are the host's own."""
    kind, code = type(error).__name__[:200], None
    try:
        if isinstance(error, OSError) and error.strerror and not isinstance(error, SandboxError):
            message, code = str(error.strerror), error.errno
        elif type(error) is KeyError and len(error.args) == 1 and type(error.args[0]) is str:
            message = error.args[0]  # its text is the key's repr, and the guest's KeyError makes that itself
        else:
            message = str(error)
    except Exception:
        message = "<the exception's own text raised>"
    clean = message.encode("utf-8", "backslashreplace").decode()[:_MESSAGE_CHARS]
    return wire.Raised(id=number, type_name=kind, message=clean, errno=code if isinstance(code, int) else None)
