"""Look-ups of names in threads: none of them can be stopped, so each sandbox has a share, and waits for its own.

A name whose server never answers holds its thread until the resolver gives up (about 10 s, by the RES_OPTIONS that
`process` gives it, resolv.conf(5)). A sandbox that asks for many such names holds its share, and those of others go on.
"""

from __future__ import annotations

import asyncio
import functools
import socket
from collections import Counter, deque
from collections.abc import Callable, Sequence

from ..native.threads import Workers

#: Look-ups at a time, of all sandboxes and of one.
MOST, SHARE = 128, 4
Resolve = Callable[[str], Sequence[str]]


def resolve(host: str) -> list[str]:
    """Return the addresses that the C library finds. Raises OSError, UnicodeError."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Lookups:
    """Looks names up for sandboxes, fairly."""

    def __init__(self, look_up: Resolve = resolve, *, most: int = MOST) -> None:
        self._look_up, self._most = look_up, most
        self._threads = Workers(most, "lookup")
        #: by sandbox: look-ups that run, and those that wait
        self._running: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    async def find(self, sandbox: str, host: str) -> list[str]:
        """Return the addresses of a name. Raises OSError, UnicodeError; what it waits for may take long."""
        await self._turn(sandbox)
        running = asyncio.get_running_loop().run_in_executor(self._threads, self._look_up, host)
        running.add_done_callback(functools.partial(self._ended, sandbox))
        return list(await asyncio.shield(running))  # its caller may give up; its thread goes on, and counts

    async def _turn(self, sandbox: str) -> None:
        if self._running[sandbox] < SHARE and self._running.total() < self._most:
            self._running[sandbox] += 1
            return
        turn = asyncio.get_running_loop().create_future()
        queue = self._waiting.setdefault(sandbox, deque())
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave(sandbox)
            elif turn in queue:
                queue.remove(turn)
            raise

    def _ended(self, sandbox: str, running: asyncio.Future[Sequence[str]]) -> None:
        if not running.cancelled():
            running.exception()  # who asked may have given up
        self._leave(sandbox)

    def _leave(self, sandbox: str) -> None:
        """Give a place to who has the fewest."""
        self._running[sandbox] -= 1
        if not self._running[sandbox]:
            del self._running[sandbox]
        for key in [key for key, queue in self._waiting.items() if not queue]:
            del self._waiting[key]
        entitled = [key for key in self._waiting if self._running[key] < SHARE]
        if entitled:
            chosen = min(entitled, key=lambda key: self._running[key])
            turn = self._waiting[chosen].popleft()
            self._running[chosen] += 1
            turn.set_result(None)
