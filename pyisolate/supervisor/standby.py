"""Standby cells: warm cells confined ahead for the policy that most sandboxes ask for.

A service spawns under the same policy again and again. Once most of its last spawns were alike, a thread here hands
out warm cells to that policy before the next `spawn`, which then only gives one of them a name. A standby cell has run
no guest code and serves that policy only; another policy gets a warm cell as ever, and a standby cell whose policy is
no longer the most frequent is ended.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import TYPE_CHECKING

from ..cell.zygote import Given
from ..errors import SandboxError
from .assign import HANDOUT_TIMEOUT_S, Assigner, CellOrder

if TYPE_CHECKING:
    from ..cell.channel import Channel
    from ..cell.pool import Pool
    from ..sandbox.process import CellSession
    from .policy_cache import PreparedPolicies

_log = logging.getLogger("pyisolate.supervisor.standby")
#: The last spawns that are looked at; a policy that more than half of them had, twice at least, gets standby cells.
_RECENT = 8
_SEEN_AT_LEAST = 2
#: As many of the last spawns, and the policy gets a zygote of its own, which costs as much as ten cells. And how often
#: one is made for the same usual policy.
_BRANCH_AT, _BRANCHES = 4, 3


class Standby:
    """The standby cells from one pool; they count among its cells, of which one stays free for other policies."""

    def __init__(self, assigner: Assigner, tables: PreparedPolicies, pool: Pool, *, native: bool = False) -> None:
        self._assigner, self._tables, self._pool, self._native = assigner, tables, pool, native
        self._most = max(0, pool.size - 1)
        self._lock = threading.Lock()
        self._ready: deque[CellSession] = deque()
        self._recent: deque[tuple[int, str]] = deque(maxlen=_RECENT)
        self._order: CellOrder | None = None
        #: how often the order's policy zygote may still be made: it may fail, or die
        self._branches_left = 0
        self._closed = False
        self._awake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pyisolate-standby", daemon=True)

    def start(self) -> None:
        """Start the thread, where the pool has room for a standby cell."""
        if self._most:
            self._thread.start()

    def close(self) -> None:
        """End the standby cells and the thread. Idempotent."""
        self._closed = True
        self._awake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=HANDOUT_TIMEOUT_S)
        with self._lock:
            left = [self._ready.popleft() for _ in range(len(self._ready))]
        self._end(left)

    def abandon(self) -> None:
        """In a forked child of the host: the cells are the parent's."""
        self._closed = True
        while self._ready:
            self._ready.popleft().abandon()

    @property
    def cells(self) -> list[CellSession]:
        """What waits to be adopted."""
        with self._lock:
            return list(self._ready)

    def take(self, order: CellOrder) -> CellSession | None:
        """Return a standby cell that fits, or None."""
        with self._lock:
            if self._order is None or self._order.key != order.key or not self._ready:
                return None
            session = self._ready.popleft()
        self._pool.set_aside(-1, refill=False)  # the thread asks for another, once `spawned` has woken it
        return session

    def spawned(self, order: CellOrder) -> None:
        """Record a spawn; request a standby cell for the most frequent policy."""
        if not self._most or order.prepared.shadow is not None:
            return
        unwanted: list[CellSession] = []
        with self._lock:
            self._recent.append(order.key)
            seen = self._recent.count(order.key)
            wanted = seen >= _SEEN_AT_LEAST and 2 * seen > len(self._recent)
            if wanted and (self._order is None or self._order.key != order.key):
                self._order, self._branches_left = order, _BRANCHES
                unwanted = [self._ready.popleft() for _ in range(len(self._ready))]
        self._end(unwanted)
        if 2 * len(self._ready) < self._most:  # else the end of a sandbox does it: the first request comes before
            self.refill_if_needed()

    def drop(self, session: CellSession) -> None:
        """A standby cell has died."""
        with self._lock:
            if session not in self._ready:
                return
            self._ready.remove(session)
        self._end([session])

    def refill_if_needed(self) -> None:
        """Wake the worker if standby cells are missing."""
        if self._lacks():
            self._awake.set()

    def refill(self) -> None:
        """Replace what was taken, here and from the pool: on the worker, where it has work."""
        if self._lacks():
            self._awake.set()
        else:
            self._pool.refill()

    def _lacks(self) -> bool:
        return self._order is not None and len(self._ready) < self._most and not self._closed

    def _run(self) -> None:
        while not self._closed:
            self._awake.wait()
            self._awake.clear()
            self._branch()
            self._pool.refill()
            while not self._closed and self._make():
                pass

    def _branch(self) -> None:
        """Give the usual policy a zygote of its own, once it has been asked for often enough; end that of another."""
        order = self._order
        policy = None if order is None else order.prepared.compiled
        if self._pool.policies.made_for not in (None, policy):
            self._pool.retire_policy()
        if order is None or policy is None or not self._branches_left or self._pool.policies.made_for is policy:
            return
        with self._lock:
            often = self._recent.count(order.key) >= _BRANCH_AT
        if not often or self._closed:
            return
        self._branches_left -= 1
        try:
            given = Given(policy=policy, environment=order.environment, directory=order.directory)
            self._pool.branch(given, forks=order.prepared.forks)
        except SandboxError as error:
            _log.warning("policy %s: %s", order.policy.name, error)

    def _make(self) -> bool:
        """Hand out one more; False when there are enough, no cell is free, or it failed."""
        order = self._order
        if order is None:
            return False
        with self._tables.keep(order.prepared) as there:
            if not there:  # so many other policies came since that its tables are closed
                self._forget_order(order)
                return False
            with self._lock:
                if order is not self._order or len(self._ready) >= self._most:
                    return order is not self._order
                channel = self._pool.take_spare(policy=order.prepared.compiled, forks=order.prepared.forks)
                if channel is None:
                    return False
            return self._confine(channel, order)

    def _confine(self, channel: Channel, order: CellOrder) -> bool:
        try:
            session = self._assigner.stand_by(channel, order, native=self._native)
        except (SandboxError, OSError) as error:
            # The next `spawn` meets the same and raises it to its caller; until then there are no standby cells.
            _log.debug("standby cell for policy %s: %s", order.policy.name, error)
            self._forget_order(order)
            self._pool.set_aside(-1)
            return False
        with self._lock:
            wanted = self._order is not None and self._order.key == order.key and not self._closed
            if wanted and session.channel.ended is None:
                self._ready.append(session)
                return True
        self._end([session])
        return False

    def _forget_order(self, order: CellOrder) -> None:
        with self._lock:
            if self._order is order:
                self._order = None
                self._recent.clear()

    def _end(self, sessions: list[CellSession]) -> None:
        for session in sessions:
            self._pool.set_aside(-1, refill=False)
            session.close()
        if sessions:
            self._awake.set()  # to replace them, by the policy that is the usual one by then
