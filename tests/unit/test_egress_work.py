"""The proxy's processor time is charged: each sandbox has its part of all that was used, and no other's."""

from __future__ import annotations

import asyncio

import pytest

from pyisolate.egress.work import Shares, Work, timed


def test_what_was_used_is_divided_by_what_was_done() -> None:
    used = [5.0]
    shares, busy, idle, others = Shares(lambda: used[0]), Work(), Work(), Work()
    busy.add(0.3)
    others.add(0.1)
    used[0] = 5.8
    shares.divide([(busy, 0), (idle, 0)], others)
    assert (busy.spent_s, idle.spent_s, others.spent_s) == pytest.approx((0.6, 0.0, 0.2))
    used[0] = 6.8
    shares.divide([(busy, 0), (idle, 10_000_000)], others)  # bytes of a tunnel, and nothing else was done
    assert (busy.spent_s, idle.spent_s) == pytest.approx((0.6, 1.0))
    used[0] = 7.0
    shares.divide([(busy, 0), (idle, 10_000_000)], others)  # the loop's own, of a proxy that rests
    assert (busy.spent_s, idle.spent_s) == pytest.approx((0.6, 1.0))


def test_each_step_of_a_task_is_measured_and_nothing_of_it_changes() -> None:
    steps: list[float] = []

    async def work() -> str:
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(0.001):
                await asyncio.Event().wait()
        except TimeoutError:
            return "timed out"
        return "not reached"

    async def cancelled() -> None:
        task = asyncio.ensure_future(timed(asyncio.Event().wait(), steps.append))
        await asyncio.sleep(0)
        task.cancel()
        await task

    assert asyncio.run(timed(work(), steps.append)) == "timed out"
    assert len(steps) >= 3
    assert min(steps) > 0
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())


def test_a_callback_is_measured_also_where_it_fails() -> None:
    work = Work()
    assert work.timed(len)("abc") == 3
    before = work.measured_s
    with pytest.raises(TypeError):
        work.timed(len)(3)  # type: ignore[arg-type]
    assert 0 < before < work.measured_s
