"""How many cells a pool asks for: of each kind what it lacks, and no more than its size in all."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from pyisolate.cell.pool import Pool
from pyisolate.cell.zygote_process import PolicyZygote
from pyisolate.policy.compiled import CompiledPolicy

SIZE = 4
POLICY = CompiledPolicy(name="t", version="t")


class Forks(PolicyZygote):
    """Notes what it is asked for; there is no process."""

    def __init__(self) -> None:
        self.made_for, self.asked = POLICY, 0

    def fork(self, count: int, *, forks: bool) -> None:
        self.asked += count


def pool_of(plain: int) -> tuple[Pool, Forks]:
    """Return a pool whose usual policy has just got its zygote, with two cells taken ahead and some plain ones."""
    pool, zygote = Pool(cast(Any, SimpleNamespace(size=SIZE)), *cast(Any, [None] * 4)), Forks()
    pool.stock.policies.add(zygote, POLICY, forks=False)
    pool.stock.policies.usual = POLICY
    pool.stock.policies.set_aside(POLICY, 2)
    for _ in range(plain):
        pool.stock.ready.add(cast(Any, SimpleNamespace(zygote=None, forks=False, ended=None)))
    return pool, zygote


def test_a_plain_cell_too_many_stands_in_for_one_of_the_policy_zygote() -> None:
    pool, zygote = pool_of(plain=2)
    pool.refill()
    assert zygote.asked == 0
    assert pool.stock.take_spare(POLICY) is not None
    pool.refill()
    assert (zygote.asked, pool.stock.counts()) == (0, (SIZE, 0))
    pool, zygote = pool_of(plain=1)
    pool.refill()
    assert (zygote.asked, pool.stock.counts()) == (1, (SIZE - 1, 1))
