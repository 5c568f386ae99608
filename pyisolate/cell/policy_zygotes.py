"""The policy zygotes of one pool: the one that cells come from now, and those that only wait for their last cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from ..policy.compiled import CompiledPolicy
    from .channel import Channel
    from .zygote_process import PolicyZygote

#: What a warm cell is good for: any policy; one that may fork (its filter lets it, without asking the listener); the
#: one that has a zygote of its own.
Kind = Literal["plain", "forking", "policy"]
KINDS: tuple[Kind, ...] = get_args(Kind)
#: How many a pool has at a time, with those that wait for their last cell: each takes some megabytes.
MOST = 8


def kind_of(channel: Channel) -> Kind:
    """Return what a warm cell is good for."""
    if channel.made_for is not None:
        return "policy"
    return "forking" if channel.forks else "plain"


class PolicyZygotes:
    """Changed under the pool's lock only."""

    def __init__(self) -> None:
        self.active: PolicyZygote | None = None
        #: whether the cells of the active one may fork without asking the listener
        self.forks = False
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
    def made_for(self) -> CompiledPolicy | None:
        """The policy of the active one."""
        return None if self.active is None else self.active.made_for

    def kind(self, policy: CompiledPolicy | None, forks: bool) -> Kind:
        """Return the kind of cell that a policy gets now."""
        if policy is not None and self.made_for is policy and self.forks is forks:
            return "policy"
        return "forking" if forks else "plain"

    def kept(self, kind: Kind, size: int, aside: int, forking: bool) -> int:
        """Return how many of a kind a pool of `size` keeps, of which `aside` are taken ahead.

        Where a policy has a zygote, all but one come from that.
        """
        one = min(1, size)
        if kind == "forking":
            return one * forking
        if self.active is None:
            return 0 if kind == "policy" else size - aside
        return max(0, size - one - aside) if kind == "policy" else one

    def add(self, zygote: PolicyZygote, *, forks: bool) -> None:
        """Have cells come from a zygote from now on."""
        self.active, self.forks = zygote, forks
        self._all.append(zygote)

    def retire(self) -> PolicyZygote | None:
        """Have no more cells come from the active one; return it."""
        retired, self.active = self.active, None
        return retired

    def remove(self, zygote: object) -> PolicyZygote | None:
        """Forget one; None where it is none of these, or is forgotten already."""
        found = next((one for one in self._all if one is zygote), None)
        if found is not None:
            self._all.remove(found)
            if self.active is found:
                self.active = None
        return found

    def remove_all(self) -> list[PolicyZygote]:
        """Forget all, and return them."""
        found, self._all, self.active = self._all, [], None
        return found
