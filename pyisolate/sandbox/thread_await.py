"""What a guest on a sandbox thread awaits outside of functions: run on one event loop of that thread, as in a cell."""

from __future__ import annotations

import inspect
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Coroutine

    from .host_executor import HostSide

#: A loop that waits runs a bytecode this often, before which an exception from outside comes in (seconds).
_LOOK_UP_S = 0.2


class ThreadLoop:
    """The event loop of one sandbox thread, made when something is awaited. Tasks of a request outlive it."""

    def __init__(self, host_side: HostSide) -> None:
        self._host_side = host_side
        self._loop: asyncio.AbstractEventLoop | None = None

    def evaluate(self, code: types.CodeType, namespace: dict[str, Any]) -> Any:
        """Return what `eval` of the code gives, awaited where the code itself awaits."""
        found = eval(code, namespace)  # of code that awaits: its coroutine, of which nothing ran
        return self._run(found) if code.co_flags & inspect.CO_COROUTINE else found

    def result(self, value: Any) -> Any:
        """Return what a call gave; of an async function, what its coroutine gives."""
        return self._run(value) if isinstance(value, types.CoroutineType) else value

    def _run(self, awaited: Coroutine[Any, Any, Any]) -> Any:
        if (loop := self._loop) is None:
            # not here: it would be an import of the guest's
            loop = self._loop = self._host_side.do(_import_asyncio).new_event_loop()
        handle: asyncio.TimerHandle

        def look() -> None:
            nonlocal handle
            handle = loop.call_later(_LOOK_UP_S, look)

        look()
        task = loop.create_task(awaited)
        try:
            return loop.run_until_complete(task)
        finally:
            handle.cancel()
            task.cancel()  # nothing to a task that is done: an exception from outside ends the loop's turn, and not it

    def close(self) -> None:
        """Close the loop, with its descriptors."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.close()


def _import_asyncio() -> types.ModuleType:
    import asyncio

    return asyncio
