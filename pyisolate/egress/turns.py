"""Turns at the proxy's loop: a sandbox begins one exchange in each pass, however many connections it has.

What one sandbox sends at once on 32 connections would else be served before what another sends.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from .work import Work


class Turns:
    """The turns of one sandbox, in the order in which they were asked for."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._taken = False
        self._waiting: deque[Callable[[], None]] = deque()

    def run(self, call: Callable[[], None]) -> None:
        """Run `call` now, or in a later pass of the loop where one ran in this."""
        if self._taken:
            self._waiting.append(call)
            return
        self._taken = True
        asyncio.get_running_loop().call_soon(self._next)
        call()

    async def wait(self) -> None:
        """Return when it is this sandbox's turn."""
        if not self._taken:
            self.run(lambda: None)
            return
        came = asyncio.get_running_loop().create_future()
        self._waiting.append(lambda: None if came.done() else came.set_result(None))
        await came

    def _next(self) -> None:
        self._taken = False
        if self._waiting:
            self._work.timed(self.run)(self._waiting.popleft())
