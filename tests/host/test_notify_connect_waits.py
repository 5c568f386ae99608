"""A connect that takes its time waits in the guest's kernel, and holds up no other sandbox at the listener."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from pyisolate.kernel.seccomp.listener import Listener
from tests.confined import cell, confined, policy, rule
from tests.in_child import outcome
from tests.loopback import Server, fetch


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def test_non_blocking_and_failing_connects_behave_as_usual(server: Server) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        closed_port = closed.getsockname()[1]

    def guest() -> object:
        with socket.socket() as sock:
            sock.setblocking(False)
            first = sock.connect_ex(("127.0.0.1", server.port))
            select.select([], [sock], [], 5)
            done = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            again = sock.connect_ex(("127.0.0.1", server.port))
            blocking = sock.getblocking()
        with socket.socket() as sock:
            refused = sock.connect_ex(("127.0.0.1", closed_port))
            short = outcome(lambda: socket.socket().connect_ex(("127.0.0.1", closed_port)))
        return first, done, again, blocking, refused, short

    first, done, again, blocking, refused, short = confined(guest, policy(rule("connect", "127.0.0.1:1-65535"))).value
    assert first in (0, errno.EINPROGRESS)
    assert (done, again in (0, errno.EISCONN), blocking) == (0, True, False)
    assert (refused, short) == (errno.ECONNREFUSED, "ok")


def _unanswered() -> tuple[socket.socket, list[socket.socket]]:
    """A server whose backlog is full: further connects wait."""
    full = socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    fillers = []
    for _ in range(4):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(full.getsockname())
        fillers.append(filler)
    time.sleep(0.05)
    return full, fillers


def test_a_connect_that_waits_can_be_interrupted_timed_out_and_killed(server: Server) -> None:
    full, fillers = _unanswered()
    port = full.getsockname()[1]

    def guest() -> object:
        signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(InterruptedError(errno.EINTR, "alarm")))
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        started = time.monotonic()
        interrupted = outcome(lambda: socket.socket().connect(("127.0.0.1", port)))
        took = time.monotonic() - started
        timed = socket.socket()
        timed.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 100_000))
        threads = [
            threading.Thread(target=lambda: socket.socket().connect(("127.0.0.1", port)), daemon=True) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        others = fetch(server.port)  # a waiting connect holds up nobody
        return interrupted, took < 2, outcome(lambda: timed.connect(("127.0.0.1", port))), others

    try:
        seen = confined(guest, policy(rule("connect", "127.0.0.1:1-65535")))
        assert seen.value == ["EINTR", True, "EINPROGRESS", "hello"]
    finally:
        for sock in (full, *fillers):
            sock.close()


@pytest.mark.alone
def test_a_connect_cannot_be_made_to_sleep_in_the_listener() -> None:
    """A guest takes O_NONBLOCK away again while the listener connects: nobody else may wait for that."""
    full, fillers = _unanswered()
    where = full.getsockname()
    granted = policy(rule("connect", "127.0.0.1:1-65535"), allow_fork=True)
    listener = Listener(lambda record: None)
    listener.start()

    def hostile() -> None:
        libc = ctypes.CDLL(None)
        address = struct.pack("=HH4s8x", socket.AF_INET, socket.htons(where[1]), socket.inet_aton(where[0]))
        sock = socket.socket()
        number = sock.fileno()
        if os.fork() == 0:  # a process of its own: no interpreter lock in common
            while True:
                libc.fcntl(number, 4, 2)
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
        while True:
            libc.fcntl(number, 4, 2 | os.O_NONBLOCK)
            libc.connect(number, address, 16)

    def polite() -> float:
        worst = 0.0
        for _ in range(300):
            started = time.monotonic()
            outcome(lambda: socket.socket(17, 3, 0))
            worst = max(worst, time.monotonic() - started)
            time.sleep(0.002)
        return worst

    try:
        with (
            cell(hostile, granted, listener=listener, name="hostile"),
            cell(hostile, granted, listener=listener, name="hostile2"),
            cell(polite, policy(), listener=listener, name="polite") as value,
        ):
            assert value() < 0.5
    finally:
        listener.close()
        for sock in (full, *fillers):
            sock.close()
