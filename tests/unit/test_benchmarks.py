"""What the benchmarks measure is what they name."""

from __future__ import annotations

import socket
import time

from benchmarks.connect import empty, listening
from benchmarks.host_threads import fill_holes


def _connects(port: int, count: int) -> float:
    """Return the seconds that `count` connections took; each is reset at once."""
    began = time.perf_counter()
    for _ in range(count):
        with socket.socket() as peer:
            peer.settimeout(0.2)
            peer.connect(("127.0.0.1", port))
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    return time.perf_counter() - began


def test_connections_never_fill_the_backlog() -> None:
    with listening(backlog=8) as server:
        port = server.getsockname()[1]
        for _ in range(6):
            _connects(port, 8)
            empty(server)


def test_the_control_a_full_backlog_delays_the_next_connection() -> None:
    with listening(backlog=8) as server:
        try:
            _connects(server.getsockname()[1], 48)
        except TimeoutError:
            return
    raise AssertionError("48 connections found room in a backlog of 8")


def _pages() -> int:
    """Return over how many pages of memory 64 new objects are strewn."""
    return len({id(one) >> 12 for one in [bytes([number, number]) for number in range(64)]})


def test_what_a_host_thread_computes_with_lies_together_whatever_was_freed_before() -> None:
    made = [bytes([number & 255, number >> 8 & 255]) for number in range(60_000)]
    kept = [one for number, one in enumerate(made) if number % 300]  # one hole in each run of some kilobytes
    del made
    strewn = _pages()
    held = fill_holes()
    assert 2 * _pages() < strewn, (_pages(), strewn)
    del held, kept  # until here
