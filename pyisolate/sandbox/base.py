"""What a user holds of a sandbox, the same for both isolations: requests, messages, readings, events, the end."""

from __future__ import annotations

import abc
import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Self, TypeVar, overload

from ..choices import Isolation
from ..errors import GuestError
from ..policy.suggest import apply
from .host_function import HostFunction, make_offer
from .request import Work, check_argv, check_seconds, check_text
from .result import OutputCallback, Result, Stats
from .session import Session
from .stdin import StdinSource, check_stdin

if TYPE_CHECKING:
    from ..enforcement import EnforcementReport
    from ..policy import Policy
    from ..policy.compiled import Limits
    from ..telemetry.event import DenialEvent

_T = TypeVar("_T")
_S = TypeVar("_S", bound=Session)
_F = TypeVar("_F", bound=Callable[..., Any])
#: A closed sandbox's cell is reaped within about a millisecond; its last events are waited for this long (seconds).
_LAST_EVENTS_TIMEOUT_S = 5.0


class SandboxBase(abc.ABC, Generic[_S]):
    """One guest with its policy. Made by `spawn`; a context manager that ends the guest on exit.

    Methods may be called from any thread; requests of one sandbox run one after the other.
    """

    def __init__(self, session: _S) -> None:
        self._session = session

    def __repr__(self) -> str:
        one = self._session
        return f"<{type(self).__name__} {one.name!r} {one.state} policy={one.context.policy} pid={one.pid}>"

    # -- what it is -----------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name that `spawn` was given."""
        return self._session.name

    @property
    def id(self) -> str:
        """16 hexadecimal digits, unique to this sandbox; its events bear it as `sandbox_id`."""
        return self._session.id

    @property
    def isolation(self) -> Isolation:
        """`process` (a boundary) or `thread` (a guard rail)."""
        return self._session.isolation

    @property
    def pid(self) -> int:
        """Process id of the guest, as the host sees it; a sandbox thread has the host's own."""
        return self._session.pid

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._session.policy

    @property
    def limits(self) -> Limits:
        """The limits of the policy in force; `enforcement` says which of them hold."""
        return self._session.limits

    @property
    def enforcement(self) -> EnforcementReport:
        """Who enforces what here, and everything that is missing. The guest has no say in it."""
        assert self._session.report is not None
        return self._session.report

    @property
    def closed(self) -> bool:
        """True once nothing can run here any more."""
        # a guest that is being ended answers no more, though its end has not been seen yet
        return self._session.closed or self._session.ending is not None

    @property
    def stats(self) -> Stats:
        """Current readings."""
        return self._session.stats()

    # -- running --------------------------------------------------------------------------------------------

    def exec(
        self,
        source: str,
        *,
        timeout: float | None = None,
        on_stdout: OutputCallback | None = None,
        on_stderr: OutputCallback | None = None,
        filename: str | None = None,
        stdin: StdinSource | None = None,
        argv: Sequence[str | os.PathLike[str]] | None = None,
    ) -> Result:
        """Run statements; names they define persist. `Result.value` is the last expression's value.

        `timeout` (seconds) bounds this request beside `limits.wall`: it raises KeyboardInterrupt in the guest, and
        kills one that does not end then. `stdin` is what the guest reads there: text, bytes, a file or a descriptor,
        which is read at its descriptor and ahead of the guest. `argv` is `sys.argv` from now on.

        Raises PolicyError, GuestError, LimitExceeded (TimeoutError, MemoryExceeded ...), SandboxDied, SandboxClosed,
        and TypeError or ValueError before anything is sent.
        """
        check_seconds("exec: timeout", timeout)
        filename = check_text("exec: filename", filename or f"<{self.name}>")
        work = Work(
            "exec",
            source=check_text("exec: source", source),
            filename=filename,
            argv=check_argv("exec: argv", argv),
            stdin=check_stdin("exec: stdin", stdin),
        )
        return self._session.submit(work, timeout, on_stdout, on_stderr)

    def eval(self, expression: str, *, timeout: float | None = None) -> Any:
        """Return the value of an expression, as its own type where that has a form, else its repr (docs/values.md).

        Raises what `exec` raises; for `sys.exit`, GuestError with `exit_code`.
        """
        check_seconds("eval: timeout", timeout)
        work = Work("eval", source=check_text("eval: expression", expression), filename=f"<{self.name}>")
        return _value(self._session.submit(work, timeout))

    def call(
        self, function: str | Callable[..., Any], /, *args: Any, timeout: float | None = None, **kwargs: Any
    ) -> Any:
        """Call "module.function", a name defined by `exec`, or a callable of the host's, sent by value.

        Arguments travel by cloudpickle (host to guest only); the result comes back as that of `eval`. Raises what
        `eval` raises.
        """
        if timeout is not None:
            check_seconds("call: timeout", timeout)
        if not callable(function) and not isinstance(function, str):
            raise TypeError(f"call: function: must be text or a callable, not {type(function).__name__}")
        if isinstance(function, str):
            check_text("call: function", function)
        return _value(self._session.submit(Work("call", function=function, args=args, kwargs=kwargs), timeout))

    def post(self, obj: Any) -> None:
        """Send a value to the guest's `recv`.

        Raises TypeError for what has no form, ValueError for what is too large (16 MiB encoded) or too deep (64),
        MessagesExceeded where the guest does not take it.
        """
        self._session.post(obj)

    def recv(self, timeout: float | None = None) -> Any:
        """Return the next object that the guest posted. Raises TimeoutError after `timeout` seconds."""
        return self._session.decode(self._session.take(timeout), "recv from")

    # -- functions of the host ------------------------------------------------------------------------------

    @overload
    def function(self, function: _F, /) -> _F: ...
    @overload
    def function(
        self,
        *,
        name: str | None = None,
        timeout: float | None = 30.0,
        max_calls: int | None = None,
        concurrency: int = 4,
    ) -> Callable[[_F], _F]: ...
    def function(
        self,
        function: Any = None,
        *,
        name: str | None = None,
        timeout: float | None = 30.0,
        max_calls: int | None = None,
        concurrency: int = 4,
    ) -> Any:
        """Let the guest call a function of this process, from now on: a decorator, with or without bounds.

        The guest sees it under `name` (default: its own) with signature and docstring. Plain data goes both ways; an
        exception arrives as type and message. `timeout`, `max_calls` and `concurrency` are those of `HostFunction`.
        Raises ValueError for a name that code cannot call.
        """

        def offer(function: _F) -> _F:
            known = name if name is not None else str(getattr(function, "__name__", ""))
            self._session.offer(make_offer({known: HostFunction(function, timeout, max_calls, concurrency)}))
            return function

        return offer if function is None else offer(function)

    def function_stubs(self) -> str:
        """Return the functions that the guest may call as type stubs: what a model needs to know of them."""
        return self._session.function_stubs()

    @property
    def answered_policy(self) -> Policy:
        """The policy in force with the rules that `on_ask` answered with `Allow("rule")`: compare, and keep it."""
        policy = self.policy
        for fragment in self._session.questions.allowed_rules():
            policy = apply(policy, fragment)
        return policy

    # -- denials --------------------------------------------------------------------------------------------

    def get_denial_events(self) -> list[DenialEvent]:
        """Return the stored denials, oldest first, up to the newest that the host can know of."""
        session = self._session
        if session.state == "closed":
            session.finished.wait(_LAST_EVENTS_TIMEOUT_S)
        session.denials.settle()
        return session.denials.stored()

    def denials(self, timeout: float | None = None) -> Iterator[DenialEvent]:
        """Iterate over denials as they come; ends when the sandbox does, or after `timeout` quiet seconds.

        Raises ValueError for a `timeout` below 0, TypeError for what is no number.
        """
        check_seconds("denials: timeout", timeout)
        return self._session.denials.follow(timeout)

    # -- control --------------------------------------------------------------------------------------------

    def reload_policy(self, policy: Policy | str | os.PathLike[str], token: str | None = None) -> None:
        """Put another policy (or a preset, or a file's) in force, without a moment under neither or half of one.

        Raises PolicyAuthError for a wrong token, EnforcementError where the kernel cannot loosen (Landlock), and for
        a sandbox thread, which keeps its kernel policy for life: the policy is unchanged then. SandboxDied where it
        failed between the two policies, or the guest did not follow, and the sandbox was killed for that;
        SandboxClosed, or what ended it, where it lives no more. TypeError for what is no policy, PolicySyntaxError,
        OSError for a file that cannot be read.
        """
        self._session.check_open()
        self._session.host.authorize(token, "reload", self._session.context)
        self._session.host.reload(self.id, policy)

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the guest; native code that never returns does not notice."""
        self._session.interrupt()

    def kill(self, token: str | None = None, *, reason: str = "killed by the host") -> None:
        """End the sandbox at once, with every process in it. Safe from any thread, and twice.

        Raises PolicyAuthError where `set_policy_token` guards it and `token` is another; `close` is always free. A
        sandbox thread ends at its next bytecode: threads cannot be killed.
        """
        self._session.host.authorize(token, "kill", self._session.context)
        self._session.end(reason)

    def close(self) -> None:
        """End the sandbox: every process in it is killed. Stored events stay readable.

        Returns at once; the kernel takes a cell apart in about a millisecond, and `Supervisor.close` waits for all.
        """
        self._session.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"pickle sandbox {self.name!r}: it is a handle of this process's. "
            "Hint: send what it returned, or a function that spawns a sandbox there"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- asyncio --------------------------------------------------------------------------------------------

    async def aexec(
        self,
        source: str,
        *,
        timeout: float | None = None,
        on_stdout: OutputCallback | None = None,
        on_stderr: OutputCallback | None = None,
        filename: str | None = None,
        stdin: StdinSource | None = None,
        argv: Sequence[str | os.PathLike[str]] | None = None,
    ) -> Result:
        """Like `exec`, without blocking the event loop. A cancelled task kills the sandbox."""
        run = functools.partial(
            self.exec,
            source,
            timeout=timeout,
            on_stdout=on_stdout,
            on_stderr=on_stderr,
            filename=filename,
            stdin=stdin,
            argv=argv,
        )
        return await self._in_thread(run)

    async def aeval(self, expression: str, *, timeout: float | None = None) -> Any:
        """Like `eval`, without blocking the event loop. A cancelled task kills the sandbox."""
        return await self._in_thread(functools.partial(self.eval, expression, timeout=timeout))

    async def acall(
        self, function: str | Callable[..., Any], /, *args: Any, timeout: float | None = None, **kwargs: Any
    ) -> Any:
        """Like `call`, without blocking the event loop. A cancelled task kills the sandbox."""
        return await self._in_thread(functools.partial(self.call, function, *args, timeout=timeout, **kwargs))

    async def arecv(self, timeout: float | None = None) -> Any:
        """Like `recv`, without blocking the event loop. A cancelled task takes no message."""
        import asyncio

        session, given_up = self._session, threading.Event()
        try:
            encoded = await session.host.run_blocking(
                lambda: session.take(timeout, given_up), undo=session.mailbox.put_back
            )
        except asyncio.CancelledError:
            given_up.set()
            session.mailbox.wake()
            raise
        return session.decode(encoded, "recv from")

    async def aclose(self) -> None:
        """Like `close`, without blocking the event loop."""
        if self._session.state != "closed":  # else the supervisor may be closed too, and its threads with it
            await self._session.host.run_blocking(self.close)

    async def _in_thread(self, call: Callable[[], _T]) -> _T:
        import asyncio

        self._session.check_caller()
        try:
            return await self._session.host.run_blocking(call)
        except asyncio.CancelledError:
            self._session.end("its task was cancelled")
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _value(result: Result) -> Any:
    """Return what the guest's expression or function gave; one that ended in `sys.exit` gave nothing."""
    if result.exit_code is None:
        return result.value
    error = GuestError("SystemExit", str(result.exit_code), "", exit_code=result.exit_code)
    error.stdout, error.stderr, error.raw = result.stdout, result.stderr, result.raw
    error.outputs, error.denials = result.outputs, result.denials
    raise error
