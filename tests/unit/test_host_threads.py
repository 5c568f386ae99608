"""Threads that wait for tasks: as many as calls that block, and none that is idle for long."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from pyisolate.native import process
from pyisolate.native.threads import Starter, Thread, Workers
from pyisolate.sandbox.aio import HostLoop, HostThreads


def until_none(threads: HostThreads) -> None:
    deadline = time.monotonic() + 10
    while threads.count and time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_burst_runs_side_by_side_and_leaves_no_thread() -> None:
    threads = HostThreads(Starter(), idle_s=0.2)
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
    threads = HostThreads(Starter(), idle_s=5)

    async def several() -> set[int]:
        return {await threads.run(threading.get_ident) for _ in range(20)}

    assert len(asyncio.run(several())) <= 2
    threads.close()
    until_none(threads)
    assert threads.count == 0


def test_an_error_and_a_late_result_reach_their_task() -> None:
    threads, late = HostThreads(Starter(), idle_s=0.1), list[str]()
    began, goes = threading.Event(), threading.Event()

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await threads.run(lambda: 1 // 0)
        task = asyncio.create_task(threads.run(lambda: (began.set(), goes.wait(60), "late")[2], undo=late.append))
        async with asyncio.timeout(60):
            while not began.is_set():
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            goes.set()
            while not late:
                await asyncio.sleep(0.005)

    asyncio.run(main())
    assert late == ["late"]
    threads.close()
    until_none(threads)
    with pytest.raises(RuntimeError):
        asyncio.run(threads.run(lambda: 1))


def confined(run: Callable[[], object]) -> None:
    """Run something on a thread that has given up privileges for itself."""

    def body() -> None:
        process.set_no_new_privs()
        try:
            found.set_result(run())
        except BaseException as error:
            found.set_exception(error)

    found: Future[object] = Future()
    Thread(body).start()
    found.result(10)


def test_what_confines_the_first_caller_confines_no_thread_that_others_use() -> None:
    starter = Starter()
    starter.open()
    threads, loop = HostThreads(starter, idle_s=5), HostLoop(starter)

    async def ask(threads: HostThreads, *, inheriting: bool = False) -> bool:
        return await threads.run(process.get_no_new_privs, inheriting=inheriting)

    async def own() -> bool:
        return process.get_no_new_privs()

    def first() -> None:
        assert not asyncio.run(ask(threads))
        assert asyncio.run(ask(threads, inheriting=True)), "a sandbox thread must be confined as its caller is"
        assert not asyncio.run_coroutine_threadsafe(own(), loop.get()).result(10)
        bare = HostThreads(Starter())  # the control: nobody else starts them
        assert asyncio.run(ask(bare))
        bare.close()

    confined(first)
    threads.close()
    loop.close()
    starter.close()
    until_none(threads)


def test_a_start_that_fails_is_raised_where_it_was_asked_for_and_the_next_one_works() -> None:
    starter, ran = Starter(), threading.Event()
    starter.open()
    thread = Thread(ran.set)
    starter.start(thread)
    assert ran.wait(10)
    with pytest.raises(RuntimeError, match="once"):
        starter.start(thread)
    starter.start(Thread(ran.clear))
    starter.close()


def test_a_start_that_waits_too_long_is_an_error_and_the_thread_never_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    starter, ran, begun, gate = Starter(), threading.Event(), threading.Event(), threading.Event()

    class Slow(Thread):
        def start(self) -> None:
            begun.set()
            gate.wait(10)

    def occupy() -> None:
        with contextlib.suppress(RuntimeError):  # it may have waited too long as well
            starter.start(Slow(int))

    starter.open()
    busy = threading.Thread(target=occupy)
    busy.start()
    assert begun.wait(10)
    with monkeypatch.context() as hurried:
        hurried.setattr("pyisolate.native.threads.PATIENCE_S", 0.05)
        with pytest.raises(RuntimeError, match=r"it waited for 0\.1 s"):
            starter.start(Thread(ran.set, name="late"))
    gate.set()
    busy.join()
    starter.start(Thread(int))  # its turn comes after that of the late one
    assert not ran.is_set()
    starter.close()


def test_workers_keep_to_their_number_and_leave_no_thread() -> None:
    workers, together, before = Workers(3, "worker"), threading.Barrier(3, timeout=10), threading.active_count()
    asked = [workers.submit(together.wait) for _ in range(6)]
    assert sorted(one.result(10) for one in asked) == [0, 0, 1, 1, 2, 2]  # no more, and no fewer, at a time
    failing, gate = workers.submit(lambda: 1 // 0), threading.Event()
    with pytest.raises(ZeroDivisionError):
        failing.result(10)
    running = [workers.submit(gate.wait, 10) for _ in range(3)]
    waiting = workers.submit(pytest.fail, "was cancelled")
    workers.shutdown(wait=False, cancel_futures=True)
    gate.set()
    workers.shutdown()
    assert all(one.result(0) for one in running)
    assert waiting.cancelled()
    with pytest.raises(RuntimeError, match="they were shut down"):
        workers.submit(gate.wait)
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before
