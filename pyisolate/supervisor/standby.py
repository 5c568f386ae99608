"""Standby cells: warm cells confined ahead for the policies that sandboxes ask for again and again.

A service spawns under the same policy again and again, or under some in turn. Once most of its last spawns were alike,
a thread here hands out warm cells to that policy before the next `spawn`, which then only gives one of them a name; and
one cell to each of the other policies that were asked for again. A standby cell has run no guest code and serves its
policy only; another policy gets a warm cell as ever.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..cell.policy_zygotes import MOST
from ..cell.zygote_messages import BranchOrder
from ..errors import SandboxError
from ..native.threads import Thread
from .assign import HANDOUT_TIMEOUT_S, Assigner, CellOrder
from .frequent import Frequent, Key

if TYPE_CHECKING:
    from ..cell.channel import Channel
    from ..cell.pool import Pool
    from ..policy.compiled import CompiledPolicy
    from ..sandbox.cell_session import CellSession
    from .policy_cache import PreparedPolicies

_log = logging.getLogger("pyisolate.supervisor.standby")
#: How often a policy was asked for when it gets a zygote of its own, which costs as much as ten cells: the usual one of
#: the last eight spawns, the others of all that are looked at. And how often one is made for a policy while it stays.
_BRANCH_AT, _BRANCHES = 4, 3


@dataclass(eq=False)
class _Line:
    """The standby cells of one policy."""

    order: CellOrder
    most: int
    ready: deque[CellSession] = field(default_factory=deque)
    #: how often its policy zygote may still be made: it may fail, or die
    branches_left: int = _BRANCHES
    #: the last spawn found one
    found: bool = False

    @property
    def lacks(self) -> bool:
        """True while there are fewer than wanted."""
        return len(self.ready) < self.most


class Standby:
    """The standby cells from one pool.

    Those of the usual policy count among its cells, of which one stays free for others; the frequent policies have one
    each beside them, for twice as many policies as the pool has cells, and for eight at most.
    """

    def __init__(self, assigner: Assigner, tables: PreparedPolicies, pool: Pool, *, native: bool = False) -> None:
        self._assigner, self._tables, self._pool, self._native = assigner, tables, pool, native
        self._most = max(0, pool.stock.size - 1)
        self._lock = threading.Lock()
        self._frequent = Frequent()
        #: by the order's key, the least recently used first
        self._lines: dict[Key, _Line] = {}
        self._usual: Key | None = None
        #: policies that are to lose their zygote
        self._retired: list[CompiledPolicy] = []
        self._closed = False
        self._awake = threading.Event()
        self._thread = Thread(target=self._run, name="pyisolate-standby")

    @property
    def _has_room(self) -> bool:
        """True where cells can stand by; else one policy has a zygote, and none has cells."""
        return self._most > 0

    def start(self) -> None:
        """Start the thread: with the supervisor, so that it inherits nothing of who calls `spawn`."""
        self._thread.start()

    def close(self) -> None:
        """End the standby cells and the thread. Idempotent."""
        self._closed = True
        self._awake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=HANDOUT_TIMEOUT_S)
        with self._lock:
            left = [session for line in self._lines.values() for session in line.ready]
            self._lines.clear()
        self._end(left)

    def abandon(self) -> None:
        """In a forked child of the host: the cells are the parent's."""
        self._closed = True
        for line in self._lines.values():
            while line.ready:
                line.ready.popleft().abandon()

    @property
    def cells(self) -> list[CellSession]:
        """What waits to be adopted."""
        with self._lock:
            return [session for line in self._lines.values() for session in line.ready]

    def take(self, order: CellOrder) -> CellSession | None:
        """Return a standby cell that fits, or None."""
        with self._lock:
            line = self._lines.get(order.key)
            if line is None or not line.ready:
                return None
            session, line.found = line.ready.popleft(), True
        self._pool.stock.give_back(order.prepared.compiled)
        return session

    def spawned(self, order: CellOrder) -> None:
        """Record a spawn; request standby cells for a policy that is the usual one, or a frequent one.

        Where the pool has no room for any, request a zygote for the usual one: its cells are confined on demand.
        """
        if order.prepared.shadow is not None:
            return
        key = order.key
        with self._lock:
            self._frequent.note(key)
            unwanted = self._rank(order)
            wanted = False
            if (line := self._lines.get(key)) is not None:
                # else the end of a sandbox does it: the first request comes before
                wanted = 2 * len(line.ready) < line.most if key == self._usual else not line.found
                line.found = False
            due = not self._has_room and line is not None and self._is_due(line)
        if unwanted:
            self._end(unwanted)
        if (wanted and self._lacks()) or self._retired or due:
            self._awake.set()

    def _rank(self, order: CellOrder) -> list[CellSession]:
        """Give a policy its place among the others; return the cells that are to end."""
        key = order.key
        unwanted: list[CellSession] = []
        line = self._lines.pop(key, None)
        if line is None:  # else it was done when that was made
            for other in [one for one in self._lines if _same_policy(self._lines[one].order, order)]:
                unwanted += self._remove(other)  # its places have changed since
        usual = self._frequent.is_usual(key)
        if line is None and (usual or (self._has_room and self._frequent.is_frequent(key))):
            line = _Line(order, 1)
            if len(self._lines) >= (min(MOST, 2 * self._pool.stock.size) if self._has_room else 1):
                kept = self._usual if self._usual and self._frequent.count(self._usual, recent=True) else None
                others = [one for one in self._lines if one != kept or not self._has_room]
                least = others[0] if usual else self._frequent.less_frequent(key, others)
                if least is None:
                    return unwanted
                unwanted += self._remove(least)
        if line is not None:
            self._lines[key] = line
        if usual and line is not None and key != self._usual:
            if self._usual is not None and (before := self._lines.get(self._usual)) is not None:
                before.most = 1
                unwanted += [before.ready.pop() for _ in range(len(before.ready) - 1)]
            self._usual, line.most = key, self._most
            self._pool.stock.choose_usual(order.prepared.compiled)
        return unwanted

    def _remove(self, key: Key) -> list[CellSession]:
        """Have no standby cells for a policy any more; return those that there are."""
        line = self._lines.pop(key)
        self._retired.append(line.order.prepared.compiled)
        if key == self._usual:
            self._usual = None
            self._pool.stock.choose_usual(None)
        return list(line.ready)

    def drop(self, session: CellSession) -> None:
        """A standby cell has died."""
        with self._lock:
            line = next((one for one in self._lines.values() if session in one.ready), None)
            if line is None:
                return
            line.ready.remove(session)
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
        return not self._closed and any(line.lacks for line in list(self._lines.values()))

    def _run(self) -> None:
        while not self._closed:
            self._awake.wait()
            self._awake.clear()
            while self._retired:
                self._pool.retire_policy(self._retired.pop())
            for line in self._lines_now():
                self._branch(line)
            self._pool.refill()
            while not self._closed and any(self._make(line) for line in self._lines_now()):
                pass

    def _lines_now(self) -> list[_Line]:
        with self._lock:
            return list(self._lines.values())

    def _is_due(self, line: _Line) -> bool:
        """Tell whether a policy is to get a zygote of its own: it has been asked for often enough. Under the lock."""
        order = line.order
        if not line.branches_left or self._pool.stock.policies.of(order.prepared.compiled) is not None or self._closed:
            return False
        return self._frequent.count(order.key, recent=order.key == self._usual) >= _BRANCH_AT

    def _branch(self, line: _Line) -> None:
        """Give a policy a zygote of its own, where that is due."""
        order, policy = line.order, line.order.prepared.compiled
        with self._lock:
            if not self._is_due(line):
                return
        line.branches_left -= 1
        try:
            given = BranchOrder(policy=policy, init=self._assigner.foresee(order))
            self._pool.branch(given, forks=order.prepared.forks)
        except SandboxError as error:
            _log.warning("policy %s: %s", order.policy.name, error)

    def _make(self, line: _Line) -> bool:
        """Hand out one more; False when there are enough, no cell is free, or it failed."""
        order = line.order
        if not (line.lacks and self._pool.stock.has_spare(order.prepared.compiled, forks=order.prepared.forks)):
            return False
        with self._tables.keep(order.prepared) as there:
            if not there:  # so many other policies came since that its tables are closed
                self._forget(line)
                return False
            with self._lock:
                if self._lines.get(order.key) is not line or not line.lacks:
                    return False
                channel = self._pool.stock.take_spare(order.prepared.compiled, forks=order.prepared.forks)
                if channel is None:
                    return False
            made = self._confine(channel, line)
        if channel.made_for is None:
            self._pool.refill()  # what frequent policies have is kept beside the pool's own
        return made

    def _confine(self, channel: Channel, line: _Line) -> bool:
        order = line.order
        try:
            session = self._assigner.stand_by(channel, order, native=self._native)
        except (SandboxError, OSError) as error:
            # The next `spawn` meets the same and raises it to its caller; until then there are no standby cells.
            _log.debug("standby cell for policy %s: %s", order.policy.name, error)
            self._forget(line)
            self._pool.stock.give_back(order.prepared.compiled)
            self._pool.refill()
            return False
        with self._lock:
            wanted = self._lines.get(order.key) is line and line.lacks and not self._closed
            if wanted and session.channel.ended is None:
                line.ready.append(session)
                return True
        self._end([session])
        return False

    def _forget(self, line: _Line) -> None:
        """Have a policy be one that was never asked for."""
        key = line.order.key
        unwanted: list[CellSession] = []
        with self._lock:
            if self._lines.get(key) is line:
                self._frequent.forget(key)
                unwanted = self._remove(key)
        self._end(unwanted)
        if self._retired:
            self._awake.set()

    def _end(self, sessions: list[CellSession]) -> None:
        for session in sessions:
            self._pool.stock.give_back(session.compiled)
            session.close()
        if sessions:
            self._awake.set()  # to replace them, by the policy that is the usual one by then


def _same_policy(one: CellOrder, other: CellOrder) -> bool:
    return one.policy.version == other.policy.version and one.enforcement == other.enforcement
