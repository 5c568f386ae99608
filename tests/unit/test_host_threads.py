"""Threads that wait for tasks: as many as calls that block, and none that is idle for long."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from pyisolate.sandbox.aio import HostThreads


def until_none(threads: HostThreads) -> None:
    deadline = time.monotonic() + 10
    while threads.count and time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_burst_runs_side_by_side_and_leaves_no_thread() -> None:
    threads = HostThreads(idle_s=0.2)
    together = threading.Barrier(50, timeout=10)  # breaks unless all of them run at once

    async def burst() -> list[int]:
        return await asyncio.gather(*(threads.run(together.wait) for _ in range(50)))

    assert sorted(asyncio.run(burst())) == list(range(50))
    until_none(threads)
    assert threads.count == 0
    assert asyncio.run(threads.run(lambda: 7)) == 7  # and it starts again
    threads.close()
    until_none(threads)


def test_calls_one_after_the_other_share_a_thread() -> None:
    threads = HostThreads(idle_s=5)

    async def several() -> set[int]:
        return {await threads.run(threading.get_ident) for _ in range(20)}

    assert len(asyncio.run(several())) <= 2
    threads.close()
    until_none(threads)
    assert threads.count == 0


def test_an_error_and_a_late_result_reach_their_task() -> None:
    threads, late = HostThreads(idle_s=0.1), []

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await threads.run(lambda: 1 // 0)
        task = asyncio.create_task(threads.run(lambda: time.sleep(0.2) or "late", undo=late.append))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.4)

    asyncio.run(main())
    assert late == ["late"]
    threads.close()
    until_none(threads)
    with pytest.raises(RuntimeError):
        asyncio.run(threads.run(lambda: 1))
