"""Spares: warm cells confined ahead for the policy that most sandboxes ask for.

A service spawns under the same policy again and again. Once most of its last spawns were alike, a thread here hands
out warm cells to that policy before anybody asks, so that `spawn` only gives one of them a name. A spare has run no
guest code and serves that policy only; another policy gets a warm cell as ever, and a spare that nobody wants any more
is ended.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from typing import TYPE_CHECKING

from . import handout
from .errors import SandboxError

if TYPE_CHECKING:
    from .cell.channel import Channel
    from .cell.pool import Pool
    from .handout import CellOrder
    from .sandbox import Sandbox
    from .supervisor import Supervisor

_log = logging.getLogger("pyisolate.spares")
#: The last spawns that are looked at; a policy that more than half of them had, twice at least, gets spares.
_RECENT = 8
_SEEN_AT_LEAST = 2


class Spares:
    """The spares from one pool; they count among its cells, of which one stays free for other policies."""

    def __init__(self, supervisor: Supervisor, pool: Pool, *, native: bool = False) -> None:
        self._supervisor, self._pool, self._native = supervisor, pool, native
        self._most = max(0, pool.size - 1)
        self._lock = threading.Lock()
        self._ready: deque[Sandbox] = deque()
        self._recent: deque[tuple[int, str]] = deque(maxlen=_RECENT)
        self._order: CellOrder | None = None
        self._closed = False
        self._awake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pyisolate-spares", daemon=True)

    def start(self) -> None:
        """Start the thread, where the pool has room for a spare."""
        if self._most:
            self._thread.start()

    def close(self) -> None:
        """End the spares and the thread. Idempotent."""
        self._closed = True
        self._awake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=handout.HANDOUT_TIMEOUT_S)
        with self._lock:
            left = [self._ready.popleft() for _ in range(len(self._ready))]
        self._end(left)

    def abandon(self) -> None:
        """In a forked child of the host: the spares are the parent's."""
        self._closed = True
        while self._ready:
            self._ready.popleft().abandon()

    @property
    def sandboxes(self) -> list[Sandbox]:
        """What waits to be adopted."""
        with self._lock:
            return list(self._ready)

    def take(self, order: CellOrder) -> Sandbox | None:
        """Return a spare that fits, or None."""
        with self._lock:
            if self._order is None or self._order.key != order.key or not self._ready:
                return None
            sandbox = self._ready.popleft()
        self._pool.set_aside(-1, refill=False)  # the thread asks for another, once `spawned` has woken it
        return sandbox

    def spawned(self, order: CellOrder) -> None:
        """Note what was asked for, and see to it that the next finds a spare."""
        if not self._most or order.prepared.shadow is not None:
            return
        unwanted: list[Sandbox] = []
        with self._lock:
            self._recent.append(order.key)
            key, seen = Counter(self._recent).most_common(1)[0]
            wanted = key == order.key and seen >= _SEEN_AT_LEAST and 2 * seen > len(self._recent)
            if wanted and (self._order is None or self._order.key != key):
                self._order = order
                unwanted = [self._ready.popleft() for _ in range(len(self._ready))]
        self._end(unwanted)
        self.look()

    def drop(self, sandbox: Sandbox) -> None:
        """A spare's cell has died."""
        with self._lock:
            if sandbox not in self._ready:
                return
            self._ready.remove(sandbox)
        self._end([sandbox])

    def look(self) -> None:
        """Look whether a spare is lacking and a cell is free for it."""
        if self._order is not None and len(self._ready) < self._most and not self._closed:
            self._awake.set()

    def _run(self) -> None:
        while not self._closed:
            self._awake.wait()
            self._awake.clear()
            self._pool.refill()
            while not self._closed and self._make():
                pass

    def _make(self) -> bool:
        """Hand out one more; False when there are enough, no cell is free, or it failed."""
        order = self._order
        if order is None:
            return False
        with self._supervisor.tables.keep(order.prepared) as there:
            if not there:  # so many other policies came since that its tables are closed
                self._forget_order(order)
                return False
            with self._lock:
                if order is not self._order or len(self._ready) >= self._most:
                    return order is not self._order
                channel = self._pool.take_spare()
                if channel is None:
                    return False
            return self._confine(channel, order)

    def _confine(self, channel: Channel, order: CellOrder) -> bool:
        try:
            sandbox = handout.spare_cell(self._supervisor, channel, order, native=self._native)
        except (SandboxError, OSError) as error:
            # The next `spawn` meets the same with somebody to tell; until then there are no spares.
            _log.debug("spare for policy %s: %s", order.policy.name, error)
            self._forget_order(order)
            self._pool.set_aside(-1)
            return False
        with self._lock:
            wanted = self._order is not None and self._order.key == order.key and not self._closed
            if wanted and sandbox._channel.ended is None:
                self._ready.append(sandbox)
                return True
        self._end([sandbox])
        return False

    def _forget_order(self, order: CellOrder) -> None:
        with self._lock:
            if self._order is order:
                self._order = None
                self._recent.clear()

    def _end(self, sandboxes: list[Sandbox]) -> None:
        for sandbox in sandboxes:
            self._pool.set_aside(-1)
            sandbox.close()
