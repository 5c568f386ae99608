"""The thread that serves every channel: what one guest makes fail costs the others nothing."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from pyisolate.cell import wire
from pyisolate.cell.channel import Channel
from pyisolate.cell.reactor import Reactor


class Owner:
    """Raises for output, as a callback of the host's may, and notes messages."""

    def __init__(self) -> None:
        self.raised, self.posted = threading.Semaphore(0), threading.Event()

    def on_output(self, stream: str, data: bytes) -> None:
        self.raised.release()
        raise LookupError(stream)

    def on_message(self, frame: wire.GuestMessage) -> None:
        self.posted.set()


class End:
    """A channel, and what its guest has of it."""

    def __init__(self) -> None:
        host, self.guest = socket.socketpair()
        (out, self.out), (err, self.err) = os.pipe(), os.pipe()
        self.channel = Channel(os.getpid(), (host.detach(), out, err, os.pidfd_open(os.getpid())))
        self.channel.conversation.accept(wire.Warm(steps=()))
        self.owner = self.channel.owner = Owner()  # type: ignore[assignment]

    def close(self) -> None:
        self.channel.owner = None
        self.channel.close()
        self.guest.close()
        os.close(self.out)
        os.close(self.err)


@pytest.fixture
def two() -> Iterator[tuple[End, End]]:
    reactor, both = Reactor(), (End(), End())
    for one in both:
        reactor.add_channel(one.channel)
    reactor.start(lambda _channel: None)
    yield both
    reactor.stop()
    for one in both:
        one.close()


def test_a_guest_whose_output_makes_a_callback_raise_delays_no_other(
    two: tuple[End, End], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyisolate.cell.reactor._PAUSE_S", 5.0)
    noisy, other = two
    os.write(noisy.out, b"text")
    assert noisy.owner.raised.acquire(timeout=5)
    other.guest.sendall(wire.encode(wire.GuestMessage(encoded=b"\xc0")))
    assert other.owner.posted.wait(2)


def test_the_log_says_so_once_a_second(two: tuple[End, End], caplog: pytest.LogCaptureFixture) -> None:
    noisy, _other = two
    with caplog.at_level(logging.ERROR, "pyisolate.reactor"):
        for _ in range(10):
            os.write(noisy.out, b"text")
            assert noisy.owner.raised.acquire(timeout=5)
    assert 1 <= len(caplog.records) <= 2
