"""Calls of functions by a guest: each that is given is run once, and none waits behind one that runs."""

from __future__ import annotations

import queue
import threading
import time

import pytest

from pyisolate.cell import wire
from pyisolate.sandbox import attendant as module
from pyisolate.sandbox.attendant import Attendant


def call(number: int) -> wire.HostCall:
    return wire.HostCall(id=number, name="f", arguments=b"")


def test_the_thread_that_ran_a_call_takes_the_next_one() -> None:
    taken: queue.SimpleQueue[tuple[int, int | None]] = queue.SimpleQueue()

    def here(frame: wire.HostCall) -> None:
        taken.put((frame.id, threading.current_thread().ident))

    one = Attendant(here)
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
    one = Attendant(lambda frame: here.append(frame.id))
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
    assert len(here) == len(set(here)) == given


def test_one_call_is_given_to_a_thread_that_waits_and_none_behind_it() -> None:
    begun, free = queue.SimpleQueue[int](), threading.Event()

    def here(frame: wire.HostCall) -> None:
        begun.put(frame.id)
        free.wait(10)

    one = Attendant(here)
    thread = threading.Thread(target=one.serve, args=(lambda: None,))
    thread.start()
    while not one.give(call(1)):
        time.sleep(0.001)
    assert [one.give(call(number)) for number in (2, 3)] == [False, False]  # others run these
    assert begun.get(timeout=10) == 1
    free.set()
    one.dismiss()
    thread.join(10)
    assert not thread.is_alive()
