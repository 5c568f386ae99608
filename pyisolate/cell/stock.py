"""The cells of one pool: which are asked for, which become warm, which wait to be taken, and which live."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING

from .policy_zygotes import Kind, PolicyZygotes, ReadyCells, kind_of
from .zygote_process import PolicyZygote

if TYPE_CHECKING:
    from ..policy.compiled import CompiledPolicy
    from .channel import Channel


class Stock:
    """Counts cells, from the order for each to its end. Thread-safe; `condition` is held for each change.

    `size` is how many are kept warm.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        #: who waits for a cell waits here
        self.condition = threading.Condition()
        self.ready = ReadyCells()
        self.policies = PolicyZygotes()
        #: nothing is taken ahead any more
        self.closed = False
        self._live: dict[int, Channel] = {}
        self._warming: dict[int, Channel] = {}
        #: those of the warming that are prepared and wait for their control group
        self._moving: set[Channel] = set()
        self._asked: Counter[Kind] = Counter()
        self._waiting: Counter[Kind] = Counter()
        #: one cell that may fork is kept once one was asked for
        self._keeps_forking = False

    # -- how many there are ---------------------------------------------------------------------------------

    def counts(self) -> tuple[int, int]:
        """Return (ready, warming) cells; those taken ahead for the usual policy are ready."""
        with self.condition:
            return self._there_for_all(), len(self._warming) + self._asked.total()

    def of_others(self) -> int:
        """Return how many cells wait for other policies than the usual one: they are kept beside the pool's `size`."""
        with self.condition:
            return self.policies.count(self.ready)[1]

    def states(self) -> tuple[int, int, int]:
        """Return how many cells are ready, taken ahead for a policy, and starting."""
        with self.condition:
            return self.ready.total(), self.policies.aside, len(self._warming) + self._asked.total()

    def is_low(self) -> bool:
        """True where less than half is ready."""
        with self.condition:
            return 2 * self._there_for_all() < self.size or self._keeps_forking > bool(self.ready.count("forking"))

    def living(self) -> list[Channel]:
        """Return the cells that were not reaped yet."""
        return list(self._live.values())

    def _there_for_all(self) -> int:
        """Return how many are ready or taken ahead; those that may fork, and other policies', are kept beside them."""
        return self.ready.count("plain") + self.policies.count(self.ready)[0]

    # -- what is taken --------------------------------------------------------------------------------------

    def take(self, policy: CompiledPolicy | None, *, forks: bool) -> Channel | None:
        """Return a warm cell for a policy, from its zygote first; None where none is ready."""
        kind, other = self.policies.kind(policy, forks), self.policies.kind(None, forks)
        self._keeps_forking = self._keeps_forking or kind == "forking"
        with self.condition:
            return self.ready.pop(kind) or self.ready.pop(other)

    def has_spare(self, policy: CompiledPolicy, *, forks: bool) -> bool:
        """True while `take_spare` may find one."""
        kind = self.policies.kind(policy, forks)
        return bool(self.ready.count(kind) or (policy is self.policies.usual and self.ready.count("plain") > 1))

    def take_spare(self, policy: CompiledPolicy, *, forks: bool = False) -> Channel | None:
        """Return a warm cell for a policy, first one too many, and count it as set aside; None where there is none."""
        kind = self.policies.kind(policy, forks)
        with self.condition:
            if any(self._waiting.values()) or self.closed:
                return None
            too_many = policy is self.policies.usual and not forks and self.ready.count("plain") > 1
            channel = self.ready.pop("plain" if too_many else kind)
            if channel is not None:
                self.policies.set_aside(policy, 1)
            return channel

    def give_back(self, policy: CompiledPolicy) -> None:
        """A cell that was taken ahead is a sandbox's now, or has ended."""
        with self.condition:
            self.policies.set_aside(policy, -1)

    def choose_usual(self, policy: CompiledPolicy | None) -> None:
        """Keep all cells but one for a policy from now on, and end what is too many of another's."""
        with self.condition:
            self.policies.usual = policy
            for zygote in self.policies.active:
                self.ready.end(zygote, keep=self.policies.kept(zygote, self.size, self._keeps_forking))

    # -- what is ordered ------------------------------------------------------------------------------------

    def order(self, *, from_zygote: bool) -> list[tuple[Kind, bool, int]]:
        """Count what is lacking as asked for, and return it: kind, whether those cells may fork, how many.

        `from_zygote`: cells of no policy's own can be had.
        """
        with self.condition:
            lacking = self.policies.lacking(self.size, self._keeps_forking, self._there)
            orders = [one for one in lacking if from_zygote or not isinstance(one[0], str)]
            for kind, _forks, count in orders:
                self._asked[kind] += count
            return orders

    def withdraw(self, kind: Kind, count: int = 1) -> None:
        """An order was not taken, or was answered."""
        with self.condition:
            if kind in self._asked:  # else its zygote was retired since
                self._asked[kind] = max(0, self._asked[kind] - count)

    def forget_orders(self, kind: Kind | None = None) -> None:
        """What was asked for, of one kind or at all, does not come."""
        if kind is None:
            self._asked.clear()
        else:
            del self._asked[kind]

    def awaits(self, kind: Kind) -> None:
        """A caller waits for a cell of that kind."""
        with self.condition:
            self._waiting[kind] += 1

    def awaits_no_more(self, kind: Kind) -> None:
        """It has one, or has given up."""
        with self.condition:
            self._waiting[kind] -= 1
            self._waiting += Counter()  # forgets zygotes whose cells are awaited no more

    def _there(self, kind: Kind) -> int:
        """Return how many of a kind there are, or will be, beside those that callers wait for."""
        there = self.ready.count(kind) + self._asked.get(kind, 0) - self._waiting.get(kind, 0)
        if self._warming:
            there += sum(kind_of(channel) == kind for channel in self._warming.values())
        return there

    # -- what becomes of a cell -----------------------------------------------------------------------------

    def forked(self, kind: Kind, channel: Channel) -> None:
        """A cell was forked. Counted at once: one that is counted nowhere is asked for again."""
        with self.condition:
            self.withdraw(kind)
            self._live[channel.pid] = self._warming[channel.pid] = channel

    def is_warming(self, channel: Channel) -> bool:
        """True until a cell is offered, or has ended."""
        return self._warming.get(channel.pid) is channel

    def is_moving(self, channel: Channel) -> bool:
        """True where it is warm, and waits for its control group."""
        return channel in self._moving

    def moves(self, channel: Channel) -> None:
        """A warm cell is prepared, and waits for its control group."""
        with self.condition:
            self._moving.add(channel)

    def is_spoilt(self, channel: Channel) -> None:
        """A warm cell could not be prepared."""
        with self.condition:
            if self.is_warming(channel):
                del self._warming[channel.pid]
            self._moving.discard(channel)

    def moved(self, channel: Channel) -> bool:
        """A cell is ready to be offered; False where another thread has seen its end, and has buried it."""
        self._moving.discard(channel)
        if self._live.get(channel.pid) is not channel:
            return False
        self._warming.pop(channel.pid, None)
        return True

    def exited(self, pid: int) -> Channel | None:
        """Forget a cell that was reaped, and return it."""
        with self.condition:
            channel = self._live.pop(pid, None)
            self._warming.pop(pid, None)
            if channel is not None:
                self.ready.remove(channel)
            return channel

    def uses(self, zygote: PolicyZygote) -> bool:
        """True while cells come from a policy's zygote, or one from it lives."""
        return zygote in self.policies.active or any(one.zygote is zygote for one in self._live.values())

    def buried(self, zygote: PolicyZygote | None = None) -> list[Channel]:
        """Forget every cell, or those of one policy zygote, and return them: it has died."""
        with self.condition:
            found = [one for one in self._live.values() if zygote is None or one.zygote is zygote]
            for channel in found:
                del self._live[channel.pid]
                self._warming.pop(channel.pid, None)
                self._moving.discard(channel)
                self.ready.remove(channel)
            return found

    def abandon(self) -> None:
        """In a forked child of the host: the cells are the parent's."""
        for channel in self.living():
            channel.abandon()
        self._live, self._warming, self.ready = {}, {}, ReadyCells()
