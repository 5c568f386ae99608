"""The proxy's processor time is charged: each sandbox has its part of all that was used, and no other's."""

from __future__ import annotations

import asyncio
import socket

import pytest

from pyisolate.egress.work import Shares, Work, timed
from pyisolate.native.tunnels import SENT, Counts, Tunnels


def test_what_was_used_is_divided_by_what_was_measured() -> None:
    used = [5.0]
    shares, busy, idle, others = Shares(lambda: used[0]), Work(), Work(), Work()
    busy.add(0.3)
    others.add(0.1)
    used[0] = 5.6
    shares.divide([(busy, 0.0), (idle, 0.0)], others)
    assert (busy.spent_s, idle.spent_s, others.spent_s) == pytest.approx((0.45, 0.0, 0.15))
    used[0] = 6.1
    shares.divide([(busy, 0.0), (idle, 0.4)], others)  # of a tunnel's thread, and nothing else was done
    assert (busy.spent_s, idle.spent_s) == pytest.approx((0.45, 0.5))
    used[0] = 6.3
    shares.divide([(busy, 0.0), (idle, 0.4)], others)  # the loop's own, of a proxy that rests
    assert (busy.spent_s, idle.spent_s) == pytest.approx((0.45, 0.5))


def test_what_is_not_measured_is_charged_to_none_past_what_is_measured_of_it() -> None:
    used = [0.0]
    shares, small = Shares(lambda: used[0]), Work()
    small.add(0.001)
    used[0] = 1.0
    shares.divide([(small, 0.0)], Work())
    assert small.spent_s == pytest.approx(0.002)


def test_a_tunnel_is_charged_its_turns_and_not_its_bytes() -> None:
    tunnels, near, met = Tunnels(60), {}, {}
    try:
        for name in ("single bytes", "one piece"):
            near[name], guest = socket.socketpair()
            host, far = socket.socketpair()
            met[name] = Counts()
            tunnels.add(guest.detach(), host.detach(), met[name])
            for size in [1] * 2000 if name == "single bytes" else [100_000]:
                near[name].sendall(b"x" * size)
                while size:
                    size -= len(far.recv(size))
            far.close()
        few, many = met["one piece"], met["single bytes"]
        assert few.carried(SENT) > many.carried(SENT) > 0
        assert many.spent_s() > few.spent_s() > 0
    finally:
        tunnels.close()
        for one in near.values():
            one.close()


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
