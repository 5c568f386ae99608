"""The package's threads run once they are started, or are given up within a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from pyisolate.native import threads
from pyisolate.native.threads import Thread
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
        with pytest.raises(RuntimeError, match=r"can't start new thread: .* did not run within 0\.1 s"):
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
