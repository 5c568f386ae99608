"""The host's end of a cell: what comes with what."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyisolate.cell import wire
from pyisolate.cell.channel import Channel


class Owner:
    """Keeps what a cell sent."""

    def __init__(self) -> None:
        self.output = b""
        self.messages = 0

    def on_denial(self, frame: wire.Denial) -> None:
        raise AssertionError(frame)

    def on_message(self, frame: wire.GuestMessage) -> None:
        self.messages += 1

    def on_output(self, stream: str, data: bytes) -> None:
        self.output += data

    def on_ended(self, reason: str) -> None:
        raise AssertionError(reason)


class Late:
    """A poller after whose first poll the guest goes on, before the host reads what it was told of."""

    def __init__(self, poller: Any, then: Callable[[], None]) -> None:
        self._poller, self._then = poller, then

    def poll(self, timeout: float | None = None) -> list[tuple[int, int]]:
        events: list[tuple[int, int]] = self._poller.poll(timeout)
        then, self._then = self._then, lambda: None
        then()
        return events

    def __getattr__(self, name: str) -> Any:
        return getattr(self._poller, name)


@pytest.fixture
def ends() -> Iterator[tuple[Channel, socket.socket, int]]:
    host, guest = socket.socketpair()
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    channel = Channel(os.getpid(), (host.detach(), out_read, err_read, os.pidfd_open(os.getpid())))
    channel.conversation = wire.Conversation(new_id=lambda: 1)
    channel.conversation.accept(wire.Warm(steps=()))
    channel.conversation.start_request()
    channel.owner = Owner()
    yield channel, guest, out_write
    channel.owner = None
    channel.close()
    guest.close()
    os.close(out_write)
    os.close(err_write)


def test_output_before_an_answer_comes_with_it_also_when_the_poll_was_for_an_earlier_frame(
    ends: tuple[Channel, socket.socket, int],
) -> None:
    channel, guest, out = ends
    guest.sendall(wire.encode(wire.GuestMessage(encoded=b"\xc0")))

    def go_on() -> None:
        os.write(out, b"printed before the answer")
        guest.sendall(wire.encode(wire.Done(id=1)))

    channel.poller = Late(channel.poller, go_on)  # type: ignore[assignment]
    assert isinstance(channel.wait_answer(None), wire.Done)
    assert isinstance(channel.owner, Owner)
    assert channel.owner.messages == 1
    assert channel.owner.output == b"printed before the answer"
