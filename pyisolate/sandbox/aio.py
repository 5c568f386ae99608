"""Threads of the host: for blocking calls that tasks of asyncio wait for, and for functions that guests call.

asyncio is imported where it is used: with all that it imports it takes 15 ms, and most hosts do without.
"""

from __future__ import annotations

import concurrent.futures
import contextvars
import functools
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from ..native.threads import Starter, Thread, Workers, settle

if TYPE_CHECKING:
    import asyncio

_T = TypeVar("_T")
_log = logging.getLogger("pyisolate.sandbox.aio")
#: Enough for every sandbox that waits: a thread that waits costs its stack's few pages.
_MOST = 1024
#: A thread that had nothing to do for so long ends: a burst leaves none (seconds).
IDLE_S = 5.0


class HostThreads:
    """The threads of one supervisor. None is started before it is needed, and none stays that is idle.

    `starter` starts them: they serve all callers, and must not be confined as the first one is.
    """

    def __init__(self, starter: Starter, *, idle_s: float = IDLE_S, name: str = "pyisolate-async") -> None:
        self._name = name
        self._workers = Workers(_MOST, name, idle_s=idle_s, starter=starter, daemon=True)

    async def run(
        self,
        function: Callable[[], _T],
        undo: Callable[[_T], object] | None = None,
        *,
        inheriting: bool = False,
    ) -> _T:
        """Run a blocking call in the task's context. `undo` gets the result that comes after the task was cancelled.

        `inheriting`: on a thread for this call alone, which has what confines the caller's.
        """
        import asyncio

        future: concurrent.futures.Future[_T]
        call = functools.partial(contextvars.copy_context().run, function)
        if inheriting:
            future = concurrent.futures.Future()
            Thread(target=settle, args=(future, call), name=self._name).start()
        else:
            future = self._workers.submit(call)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if undo is not None:
                future.add_done_callback(lambda done: _undo(done, undo))
            raise

    def start(self, call: Callable[[], object]) -> None:
        """Run a call that hands no result back. Raises RuntimeError when closed, or without a thread to run it."""
        self._workers.submit(run_logged, call)

    @property
    def count(self) -> int:
        """How many threads there are."""
        return self._workers.count

    def close(self) -> None:
        """Start nothing more; what runs goes on."""
        self._workers.shutdown(wait=False, cancel_futures=True)


class HostLoop:
    """An event loop on a thread of its own, which `starter` starts when it is first asked for."""

    def __init__(self, starter: Starter) -> None:
        self._starter, self._lock = starter, threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: Thread | None = None
        self._closed = False

    def get(self) -> asyncio.AbstractEventLoop:
        """Return the running loop. Raises RuntimeError when closed."""
        with self._lock:
            if self._closed:
                raise RuntimeError("event loop of the host's functions: the supervisor is closed")
            if self._loop is None:
                import asyncio

                loop = asyncio.new_event_loop()
                thread = Thread(target=self._run, args=(loop,), name="pyisolate-loop")
                try:
                    self._starter.start(thread)
                except RuntimeError:  # no more threads
                    loop.close()
                    raise
                self._loop, self._thread = loop, thread
            return self._loop

    def close(self) -> None:
        """Cancel what runs and end the thread."""
        with self._lock:
            self._closed, loop, thread = True, self._loop, self._thread
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(IDLE_S)

    @staticmethod
    def _run(loop: asyncio.AbstractEventLoop) -> None:
        import asyncio

        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()


def run_logged(call: Callable[[], object]) -> None:
    """Run a call; its failure goes to the log alone."""
    try:
        call()
    except Exception:
        _log.exception("a call on a thread of the host failed")


def _undo(done: concurrent.futures.Future[_T], undo: Callable[[_T], object]) -> None:
    if not done.cancelled() and done.exception() is None:
        undo(done.result())
