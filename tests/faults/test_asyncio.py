"""Cancelled tasks at every await: no sandbox is left behind, no message is lost, the loop never waits."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

import pyisolate
from tests import inside


def test_a_task_cancelled_while_it_spawns_leaves_no_sandbox(chance: random.Random) -> None:
    with pyisolate.Supervisor(pool_size=0) as supervisor:

        async def main() -> None:
            for number in range(30):
                task = asyncio.create_task(supervisor.aspawn(f"cancelled {number}"))
                await asyncio.sleep(chance.random() * 0.01)
                task.cancel()
                try:
                    (await task).close()  # it was there first
                except asyncio.CancelledError:
                    pass

        asyncio.run(main())
        deadline = time.monotonic() + 5
        while supervisor.sandboxes and time.monotonic() < deadline:
            time.sleep(0.01)
        assert supervisor.sandboxes == []


def test_a_task_that_stops_waiting_for_a_message_takes_none(supervisor: pyisolate.Supervisor) -> None:
    async def main() -> list[int]:
        async with await supervisor.aspawn("messages") as sandbox:
            for _ in range(5):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(sandbox.arecv(), 0.02)
            await sandbox.aexec("for n in range(20): post(n)")
            seen = []
            while len(seen) < 20:
                try:
                    seen.append(await asyncio.wait_for(sandbox.arecv(timeout=5), 0.0005 if len(seen) % 2 else 5))
                except TimeoutError:
                    seen.append(await sandbox.arecv(timeout=5))
            return seen

    assert sorted(asyncio.run(main())) == list(range(20))


def test_a_cancelled_request_ends_its_sandbox_and_no_other(
    supervisor: pyisolate.Supervisor, chance: random.Random
) -> None:
    async def one(number: int) -> str:
        async with await supervisor.aspawn(f"s{number}") as sandbox:
            task = asyncio.create_task(sandbox.aexec("import time; time.sleep(0.05); 7"))
            await asyncio.sleep(chance.random() * 0.1)
            if number % 2:
                task.cancel()
                try:
                    await task
                except asyncio.CancelledError:
                    assert sandbox.closed or inside.session(sandbox).ending is not None
                    return "cancelled"
            return str((await task).value)

    async def main() -> list[str]:
        return await asyncio.gather(*(one(number) for number in range(16)))

    results = asyncio.run(main())
    assert all(result == "7" for result in results[::2])
    assert "cancelled" in results


def test_the_loop_goes_on_while_a_supervisor_starts() -> None:
    async def main() -> float:
        slowest, started = 0.0, time.monotonic()
        with pyisolate.Supervisor(pool_size=0) as supervisor:
            pass
        supervisor = pyisolate.Supervisor(pool_size=0)
        tasks = [asyncio.create_task(supervisor.aspawn(f"s{n}")) for n in range(4)]
        last = time.monotonic()
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0.005)
            slowest, last = max(slowest, time.monotonic() - last), time.monotonic()
        for task in tasks:
            await task.result().aclose()
        await asyncio.to_thread(supervisor.close)
        assert time.monotonic() - started < 60
        return slowest

    assert asyncio.run(main()) < 0.5


def test_a_sandbox_outlives_neither_its_supervisor_nor_its_with_block() -> None:
    async def main() -> None:
        supervisor = pyisolate.Supervisor(pool_size=0)
        async with await supervisor.aspawn("inner") as sandbox:
            await asyncio.to_thread(supervisor.close)
            assert sandbox.closed

    asyncio.run(main())
