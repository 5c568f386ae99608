"""The requests of a sandbox for tasks of asyncio: each blocks a thread of the supervisor's, never the event loop."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from .result import Result
    from .supervisor import Supervisor


class AsyncCalls:
    """`aexec`, `aeval`, `acall`, `arecv`, `aclose` and `async with`, in terms of the calls that block."""

    _supervisor: Supervisor
    exec: Callable[..., Result]
    eval: Callable[..., Any]
    call: Callable[..., Any]
    close: Callable[[], None]
    end: Callable[[str], None]

    async def aexec(self, source: str, **options: Any) -> Result:
        """Like `exec`, without blocking the event loop. A cancelled task kills the sandbox."""
        return await self._in_thread(functools.partial(self.exec, source, **options))  # type: ignore[no-any-return]

    async def aeval(self, expression: str, **options: Any) -> Any:
        """Like `eval`, without blocking the event loop."""
        return await self._in_thread(functools.partial(self.eval, expression, **options))

    async def acall(self, function: str | Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Like `call`, without blocking the event loop."""
        return await self._in_thread(functools.partial(self.call, function, *args, **kwargs))

    async def arecv(self, timeout: float | None = None) -> Any:
        """Like `recv`, without blocking the event loop. A cancelled task takes no message."""
        given_up = threading.Event()
        try:
            message = await self._supervisor.in_thread(lambda: self._take(timeout, given_up), undo=self._put_back)
        except asyncio.CancelledError:
            given_up.set()
            self._wake()
            raise
        return self._received(message)

    async def aclose(self) -> None:
        """Like `close`, without blocking the event loop."""
        if self._is_open():  # else the supervisor may be closed too, and its threads with it
            await self._supervisor.in_thread(self.close)

    async def _in_thread(self, function: Callable[[], Any]) -> Any:
        try:
            return await self._supervisor.in_thread(function)
        except asyncio.CancelledError:
            self.end("its task was cancelled")
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # -- what each kind of sandbox has of its own -----------------------------------------------------------

    def _is_open(self) -> bool:
        """False once `close` was called."""
        raise NotImplementedError

    def _take(self, timeout: float | None, given_up: threading.Event) -> Any:
        """Wait for a message, unless the task that waits for it gives up before (CancelledError)."""
        raise NotImplementedError

    def _put_back(self, message: Any) -> None:
        """Return a message that nobody waits for any more: it is the next one."""
        raise NotImplementedError

    def _wake(self) -> None:
        """Have whoever waits for a message look at what changed."""
        raise NotImplementedError

    def _received(self, message: Any) -> Any:
        """Return what `recv` returns for a message."""
        raise NotImplementedError
