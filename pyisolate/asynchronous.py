"""The requests of a sandbox for tasks of asyncio: each blocks a thread of the supervisor's, never the event loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    from .result import Result
    from .supervisor import Supervisor

_T = TypeVar("_T")
#: Enough for every sandbox that waits: a thread that waits costs its stack's few pages.
_MOST = 1024


class HostThreads:
    """The threads on which blocking calls wait for tasks. None is started before it is needed."""

    def __init__(self) -> None:
        self._executor: concurrent.futures.ThreadPoolExecutor | None = None
        # not the supervisor's: its `start` holds that for a second, and this is an event loop
        self._lock = threading.Lock()

    async def run(self, function: Callable[[], _T], undo: Callable[[_T], object] | None = None) -> _T:
        """Run a blocking call. `undo` gets the result that comes after the task was cancelled."""
        with self._lock:
            if self._executor is None:
                self._executor = concurrent.futures.ThreadPoolExecutor(_MOST, thread_name_prefix="pyisolate-async")
            future = self._executor.submit(function)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if undo is not None:
                future.add_done_callback(lambda done: _undo(done, undo))
            raise

    def close(self) -> None:
        """Start nothing more; what runs goes on."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)


def _undo(done: concurrent.futures.Future[_T], undo: Callable[[_T], object]) -> None:
    if not done.cancelled() and done.exception() is None:
        undo(done.result())


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
