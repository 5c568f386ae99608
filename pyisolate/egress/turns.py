"""Turns at the proxy's loop: a sandbox begins one exchange in each pass, however many connections it has.

What one sandbox sends at once on 32 connections would else be served before what another sends.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from .work import Work


class Turns:
    """The turns of one sandbox, in the order in which they were asked for.

    A turn ends with a pass of the loop. Where another one waits, one more pass tells that. Else the host's answer does,
    which comes in a later pass, and the loop is spared one.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        #: the number of the turn that was taken last
        self.last = 0
        self._taken = self._called = False
        self._waiting: deque[Callable[[], None]] = deque()

    def run(self, call: Callable[[], None]) -> None:
        """Run `call` now, or in a later pass of the loop where one may have run in this."""
        if self._taken:
            self._waiting.append(call)
            self._look_later()
            return
        self._taken = True
        self.last += 1
        call()

    def answered(self, turn: int) -> None:
        """Note that the host has answered what was begun in that turn: its pass is over."""
        if turn == self.last and not self._waiting:
            self._taken = False

    async def wait(self) -> None:
        """Return when it is this sandbox's turn."""
        if not self._taken:
            self.run(lambda: None)
            self._look_later()
            return
        came = asyncio.get_running_loop().create_future()
        self.run(lambda: None if came.done() else came.set_result(None))
        await came

    def _look_later(self) -> None:
        if not self._called:
            self._called = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        self._taken = self._called = False
        if self._waiting:
            self._work.timed(self.run)(self._waiting.popleft())
            self._look_later()
