"""KeyboardInterrupt is put off, never lost, and only where the main thread does something whole."""

from __future__ import annotations

import threading

import pytest

from pyisolate.hooks.interrupts import Interrupts


def test_what_comes_within_is_raised_at_the_outermost_end() -> None:
    interrupts, seen = Interrupts(), []
    assert not interrupts.put_off()

    def work() -> None:
        with interrupts:
            with interrupts:
                assert interrupts.put_off()
            seen.append("whole")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert seen == ["whole"]
    with interrupts:
        pass  # once


def test_a_block_of_another_thread_puts_nothing_off() -> None:
    interrupts, entered, leave = Interrupts(), threading.Event(), threading.Event()

    def other() -> None:
        with interrupts:
            entered.set()
            leave.wait()

    thread = threading.Thread(target=other)
    thread.start()
    entered.wait()
    assert not interrupts.put_off()
    leave.set()
    thread.join()
