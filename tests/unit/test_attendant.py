"""Calls of functions by a guest on a thread: each is taken once, by the thread that waits for it or by another."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

import pytest

from pyisolate.cell import wire
from pyisolate.sandbox import attendant as module
from pyisolate.sandbox.attendant import Attendant


def call(number: int) -> wire.HostCall:
    return wire.HostCall(id=number, name="f", arguments=b"")


def run_at_once(what: Callable[[], object]) -> None:
    what()


def test_the_thread_that_ran_a_call_takes_the_next_one() -> None:
    taken: queue.SimpleQueue[tuple[int, int | None]] = queue.SimpleQueue()

    def here(frame: wire.HostCall) -> None:
        taken.put((frame.id, threading.current_thread().ident))

    one = Attendant(here, lambda frame: pytest.fail("taken elsewhere"), run_at_once)
    assert not one.give(call(1))  # nobody waits yet
    first = threading.Event()
    thread = threading.Thread(target=one.serve, args=(first.set,))
    thread.start()
    first.wait()
    for number in (2, 3):
        while not one.give(call(number)):
            time.sleep(0.001)
        assert taken.get(timeout=10) == (number, thread.ident)
    one.dismiss()
    thread.join(10)
    assert not thread.is_alive()
    assert not one.give(call(4))
    one.serve(lambda: None)  # returns at once


def test_each_call_is_taken_once_also_where_it_comes_as_the_thread_stops_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LINGER_S", 0.0001)
    here: list[int] = []
    elsewhere: list[int] = []
    one = Attendant(lambda frame: here.append(frame.id), lambda frame: elsewhere.append(frame.id), run_at_once)
    ended = threading.Event()

    def attend() -> None:
        while not ended.is_set():
            one.serve(lambda: None)

    thread = threading.Thread(target=attend)
    thread.start()
    given = 0
    for number in range(3000):
        given += one.give(call(number))
        if number % 7 == 0:
            time.sleep(0)
    ended.set()
    thread.join(10)
    assert given > 0
    assert len(here) + len(elsewhere) == given
    assert len({*here, *elsewhere}) == given
