"""Descriptors that are closed on a thread of their own: none stays open, whatever comes of the thread."""

from __future__ import annotations

import os

from pyisolate.supervisor.closer import MOST_WAITING, Closer


def ends(count: int) -> tuple[int, list[int]]:
    """Return a pipe's end to read, and as many descriptors of the other: it sees the end when all are closed."""
    reads, writes = os.pipe()
    copies = [os.dup(writes) for _ in range(count)]
    os.close(writes)
    return reads, copies


def all_closed(reads: int) -> bool:
    os.set_blocking(reads, False)
    try:
        return os.read(reads, 1) == b""
    except BlockingIOError:
        return False
    finally:
        os.close(reads)


def test_all_are_closed_once_it_has_stopped() -> None:
    reads, copies = ends(2 * MOST_WAITING)
    closer = Closer()
    closer.start()
    for one in copies:
        closer.close_later(one)
    closer.stop()
    assert all_closed(reads)


def test_without_a_thread_each_is_closed_at_once() -> None:
    reads, copies = ends(1)
    Closer().close_later(copies[0])
    assert all_closed(reads)


def test_a_forked_host_closes_its_copies() -> None:
    reads, copies = ends(3)
    closer = Closer()
    closer._thread = object()  # type: ignore[assignment] # one that closes nothing, as the parent's in a child
    for one in copies:
        closer.close_later(one)
    closer.abandon()
    assert all_closed(reads)
