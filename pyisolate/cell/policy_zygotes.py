"""What a pool has for single policies: zygotes, those that fork and those that await their last cell's end; cells."""

from __future__ import annotations

import signal
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from .zygote_process import PolicyZygote

if TYPE_CHECKING:
    from ..policy.compiled import CompiledPolicy
    from .channel import Channel

#: What a warm cell is good for: any policy; one that may fork (its filter lets it, without asking the listener); the
#: one whose zygote forked it.
Kind = Literal["plain", "forking"] | PolicyZygote
#: How many a pool has at a time, with those that wait for their last cell: each takes some megabytes.
MOST = 8


def kind_of(channel: Channel) -> Kind:
    """Return what a warm cell is good for."""
    if isinstance(channel.zygote, PolicyZygote):
        return channel.zygote
    return "forking" if channel.forks else "plain"


class ReadyCells:
    """Warm cells that wait to be taken, by kind. Changed under the pool's lock only."""

    def __init__(self) -> None:
        self._cells: defaultdict[Kind, deque[Channel]] = defaultdict(deque)

    def count(self, kind: Kind) -> int:
        """Return how many of a kind there are."""
        return len(self._cells.get(kind, ()))

    def total(self) -> int:
        """Return how many there are."""
        return sum(map(len, self._cells.values()))

    def add(self, channel: Channel) -> None:
        """Offer a cell."""
        self._cells[kind_of(channel)].append(channel)

    def remove(self, channel: Channel) -> None:
        """Offer a cell no more, if it was."""
        if channel in (cells := self._cells.get(kind_of(channel), deque())):
            cells.remove(channel)

    def pop(self, kind: Kind) -> Channel | None:
        """Return the oldest that lives, None where there is none."""
        while self.count(kind):
            channel = self._cells[kind].popleft()
            if channel.ended is None:
                return channel
        return None

    def end(self, kind: Kind, *, keep: int = 0) -> None:
        """End all of a kind but for `keep` of them."""
        while self.count(kind) > keep:
            self._cells[kind].popleft().signal(signal.SIGKILL)
        if not keep:
            self._cells.pop(kind, None)


class PolicyZygotes:
    """Changed under the pool's lock only."""

    def __init__(self) -> None:
        #: the policy that all but one of the pool's cells are for; the others with a zygote have one more cell each
        self.usual: CompiledPolicy | None = None
        #: cells that were taken ahead of `spawn`, by the id of their policy
        self._aside: Counter[int] = Counter()
        #: those that fork, with whether their cells may fork without asking the listener; by the id of their policy
        self._active: dict[int, tuple[PolicyZygote, bool]] = {}
        self._all: list[PolicyZygote] = []

    @property
    def full(self) -> bool:
        """True while no more may be added."""
        return len(self._all) >= MOST

    @property
    def pids(self) -> tuple[int, ...]:
        """Their process ids, the oldest first."""
        return tuple(one.pid for one in self._all)

    @property
    def active(self) -> list[PolicyZygote]:
        """Those that fork."""
        return [zygote for zygote, _forks in list(self._active.values())]

    def of(self, policy: CompiledPolicy | None) -> PolicyZygote | None:
        """Return the zygote that forks cells of a policy, None where there is none."""
        found = None if policy is None else self._active.get(id(policy))
        return None if found is None else found[0]

    def kind(self, policy: CompiledPolicy | None, forks: bool) -> Kind:
        """Return the kind of cell that a policy gets now."""
        found = None if policy is None else self._active.get(id(policy))
        if found is not None and found[1] is forks:
            return found[0]
        return "forking" if forks else "plain"

    def set_aside(self, policy: CompiledPolicy, count: int) -> None:
        """Count as many more (or fewer) cells as taken ahead for a policy."""
        self._aside[id(policy)] += count
        if not self._aside[id(policy)]:
            del self._aside[id(policy)]

    @property
    def aside(self) -> int:
        """How many cells are taken ahead, for whatever policy."""
        return self._aside.total()

    def count(self, ready: ReadyCells) -> tuple[int, int]:
        """Return how many cells there are, taken ahead or ready, for the usual policy and for all others."""
        usual = self.of(self.usual)
        of_usual = self._aside[id(self.usual)] + (0 if usual is None else ready.count(usual))
        return of_usual, self._aside.total() + sum(ready.count(one) for one in self.active) - of_usual

    def kept(self, kind: Kind, size: int, forking: bool) -> int:
        """Return how many of a kind wait in a pool of `size`, beside those that are taken ahead.

        Where the usual policy has a zygote, all but one come from that. Each other policy with a zygote has one.
        """
        one = min(1, size)
        if kind == "forking":
            return one * forking
        if kind == "plain":
            return one if self.of(self.usual) is not None else size - self._aside.get(id(self.usual), 0)
        most = size - one if kind.made_for is self.usual else one
        return max(0, most - self._aside.get(id(kind.made_for), 0))

    def lacking(self, size: int, forking: bool, there: Callable[[Kind], int]) -> list[tuple[Kind, bool, int]]:
        """Return what is to be forked: a kind, whether those cells may fork without asking the listener, how many.

        `there` tells how many of a kind are there or on the way.
        """
        usual, plain = self.of(self.usual), there("plain")
        kept = self.kept("plain", size, forking)
        found: list[tuple[Kind, bool, int]] = [
            ("plain", False, kept - plain),
            ("forking", True, forking * min(1, size) - there("forking")),
        ]
        for zygote, forks in self._active.values():
            wanted = self.kept(zygote, size, forking) - there(zygote)
            if zygote is usual and not forks:
                wanted -= max(0, plain - kept)  # the pool takes those first
            found.append((zygote, forks, wanted))
        return [one for one in found if one[2] > 0]

    def add(self, zygote: PolicyZygote, policy: CompiledPolicy, *, forks: bool) -> None:
        """Have cells of a policy come from a zygote from now on."""
        self._active[id(policy)] = zygote, forks
        self._all.append(zygote)

    def retire(self, policy: CompiledPolicy) -> PolicyZygote | None:
        """Have no more cells come from a policy's zygote; return it."""
        found = self._active.pop(id(policy), None)
        return None if found is None else found[0]

    def remove(self, zygote: object) -> PolicyZygote | None:
        """Forget one; None where it is none of these, or is forgotten already."""
        found = next((one for one in self._all if one is zygote), None)
        if found is not None:
            self._all.remove(found)
            self._active = {key: one for key, one in self._active.items() if one[0] is not found}
        return found

    def remove_all(self) -> list[PolicyZygote]:
        """Forget all, and return them."""
        found, self._all, self._active = self._all, [], {}
        return found
