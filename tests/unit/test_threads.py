"""The package's threads run once they are started, or are given up within a time."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable

import pytest

from pyisolate.native import threads
from pyisolate.native.threads import Starter, Thread, Workers
from pyisolate.telemetry.worker_threads import Calls, Timer

STARVED = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def without_memory(thread: threading.Thread) -> None:
    raise MemoryError  # what CPython raises there where it finds no memory for the new thread's first frame


def late(thread: threading.Thread) -> None:
    time.sleep(0.3)
    real(thread)


real: Callable[[threading.Thread], None] = threading.Thread._bootstrap  # type: ignore[attr-defined]


@STARVED
@pytest.mark.parametrize("begin", [without_memory, late])
def test_a_thread_that_says_nothing_is_given_up_and_never_runs(
    begin: Callable[[threading.Thread], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran, before = threading.Event(), set(threading.enumerate())
    with monkeypatch.context() as starved:
        starved.setattr(threading.Thread, "_bootstrap", begin)
        starved.setattr(threads, "PATIENCE_S", 0.1)
        thread = Thread(ran.set)
        with pytest.raises(RuntimeError, match=r"start thread .*: it did not run within 0\.1 s"):
            thread.start()
    assert set(threading.enumerate()) == before
    assert not ran.wait(0.4 if begin is late else 0)
    with pytest.raises(RuntimeError, match="once"):
        thread.start()
    again = Thread(ran.set)
    again.start()
    again.join()
    assert ran.is_set()
    assert set(threading.enumerate()) == before


@STARVED
def test_what_works_on_a_thread_works_again_once_one_can_be_started(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls, timer, done = Calls("calls"), Timer(), threading.Semaphore(0)
    with monkeypatch.context() as starved:
        starved.setattr(threading.Thread, "_bootstrap", without_memory)
        starved.setattr(threads, "PATIENCE_S", 0.05)
        assert not calls.put(lambda _argument: done.release(), None)
        timer.call_in(0, done.release)
        began = time.monotonic()
        assert not any(calls.put(pytest.fail, "refused") for _ in range(100))
        assert time.monotonic() - began < 1, "not each one waits for a thread"
    assert [one.levelname for one in caplog.records] == ["ERROR"] * 2, "one of the calls, one of the timer"
    given_up = time.monotonic() + 10
    while not calls.put(lambda _argument: done.release(), None):
        assert time.monotonic() < given_up
        time.sleep(0.01)
    assert done.acquire(timeout=10)
    while not done.acquire(timeout=0.01):  # the timer's first call comes late, and comes
        assert time.monotonic() < given_up
        timer.call_in(0, threading.Event().set)
    calls.close(5)
    timer.close()


def test_an_interrupt_while_a_worker_starts_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(1, "worker")
    for interrupt in (KeyboardInterrupt, MemoryError):
        with monkeypatch.context() as interrupted:

            def refuse(_thread: threading.Thread, error: type[BaseException] = interrupt) -> None:
                raise error

            interrupted.setattr(threading.Thread, "start", refuse)
            with pytest.raises(interrupt):
                workers.submit(pytest.fail, "runs, and was not submitted")
    assert workers.submit(threading.get_ident).result(10) != threading.get_ident()
    workers.shutdown()


def test_a_worker_that_runs_though_its_start_was_interrupted_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    workers, start = Workers(1, "worker"), threading.Thread.start

    def interrupt(thread: threading.Thread) -> None:
        start(thread)
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(threading.Thread, "start", interrupt)
        with pytest.raises(KeyboardInterrupt):
            workers.submit(int)
    assert workers.submit(int).result(10) == 0
    workers.shutdown()
    assert workers.count == 0


def test_a_worker_that_is_to_wait_for_itself_is_told_so() -> None:
    workers, told = Workers(2, "worker"), queue.SimpleQueue[object]()

    def end_them(_done: object) -> None:
        try:
            told.put(workers.shutdown())
        except RuntimeError as error:
            told.put(str(error))

    begin = threading.Event()
    workers.submit(begin.wait, 10).add_done_callback(end_them)
    begin.set()
    assert "one of them cannot wait for itself. Hint: pass wait=False" in str(told.get(timeout=10))
    workers.shutdown()  # the control: another thread may
    assert workers.count == 0
    with pytest.raises(RuntimeError, match="they were shut down"):
        workers.submit(int)


def test_a_start_that_meets_the_end_of_its_starter_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(queue.SimpleQueue[object]):
        def put(self, item: object, block: bool = True, timeout: float | None = None) -> None:
            if item is not None and not ending.ident:  # the starter may end between the look at it and the request
                ending.start()
                ending.join(0.1)
            super().put(item)

    with monkeypatch.context() as slow:
        slow.setattr(queue, "SimpleQueue", Slow)
        starter, ran = Starter(), threading.Event()
    ending = threading.Thread(target=starter.close)
    starter.open()
    monkeypatch.setattr(threads, "PATIENCE_S", 1.0)
    starter.start(Thread(ran.set))
    assert ran.wait(10)
    ending.join()
    starter.start(Thread(ran.clear))  # by the caller


def test_a_call_runs_where_nothing_of_its_caller_confines_it() -> None:
    starter, own = Starter(), os.sched_getaffinity(0)
    starter.open()
    seen: list[set[int]] = []

    def confined() -> None:
        os.sched_setaffinity(0, {min(own)})
        seen.append(starter.run(lambda: os.sched_getaffinity(0)))
        with pytest.raises(ValueError, match="of the call"):
            starter.run(refuse)

    def refuse() -> None:
        raise ValueError("of the call")

    thread = threading.Thread(target=confined)
    thread.start()
    thread.join()
    starter.close()
    assert seen == [own]
