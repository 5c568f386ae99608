"""A sandbox begins one exchange in each pass of the proxy's loop: many connections are no more turns than one."""

from __future__ import annotations

import asyncio
from functools import partial

from pyisolate.egress.turns import Turns
from pyisolate.egress.work import Work


def test_many_of_one_sandbox_do_not_come_before_one_of_another() -> None:
    async def story() -> list[str]:
        many, one, order = Turns(Work()), Turns(Work()), list[str]()

        async def late() -> None:
            await many.wait()
            order.append("many, a task")

        for number in range(3):
            many.run(partial(order.append, f"many {number}"))
        waiting = asyncio.ensure_future(late())
        await asyncio.sleep(0)  # a pass
        one.run(partial(order.append, "one 0"))
        one.run(partial(order.append, "one 1"))
        async with asyncio.timeout(5):
            await waiting
        await asyncio.sleep(0)
        return order

    order = asyncio.run(story())
    assert order[0] == "many 0"
    assert [name for name in order if name.startswith("many")] == ["many 0", "many 1", "many 2", "many, a task"]
    assert order.index("one 0") < order.index("many 2")
    assert order.index("one 1") < order.index("many, a task")


def test_an_exchange_behind_which_none_waits_takes_no_pass_of_the_loop() -> None:
    async def story() -> tuple[list[int], list[str]]:
        turns, loop, order, called = Turns(Work()), asyncio.get_running_loop(), list[str](), list[int]()
        call_soon = loop.call_soon
        loop.call_soon = lambda *given, **options: (called.append(1), call_soon(*given, **options))[1]  # type: ignore
        for number in range(3):
            turns.run(partial(order.append, f"alone {number}"))
            turns.answered(turns.last)
        alone = len(called)
        turns.run(partial(order.append, "one"))
        turns.answered(turns.last - 1)  # to what was begun before: this pass goes on
        turns.run(partial(order.append, "behind it"))
        assert order[-1] == "one"
        async with asyncio.timeout(5):
            while len(order) < 5:
                await asyncio.sleep(0)
        return [alone, len(called) - alone], order

    (alone, later), order = asyncio.run(story())
    assert (alone, later > 0) == (0, True)
    assert order == ["alone 0", "alone 1", "alone 2", "one", "behind it"]
