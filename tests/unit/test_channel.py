"""The host's end of a cell: what comes with what."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

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

    def on_shown(self, frame: wire.Shown) -> None:
        raise AssertionError(frame)

    def on_output(self, stream: str, data: bytes) -> None:
        self.output += data

    def on_ended(self, reason: str) -> None:
        raise AssertionError(reason)


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


def test_output_before_an_answer_comes_with_it_also_when_the_wait_was_for_an_earlier_frame(
    ends: tuple[Channel, socket.socket, int],
) -> None:
    channel, guest, out = ends
    assert isinstance(channel.owner, Owner)

    def go_on() -> None:
        for turn in range(300):
            # small ones, which a turn receives, and one that is received apart
            guest.sendall(wire.encode(wire.GuestMessage(encoded=bytes(100_000 if turn % 3 == 0 else 1))))
            os.write(out, b"printed before the answer")
            guest.sendall(wire.encode(wire.Done(id=1)))
            asked.acquire()

    asked = threading.Semaphore(0)
    thread = threading.Thread(target=go_on)
    thread.start()
    for turn in range(300):
        assert isinstance(channel.wait_answer(None), wire.Done)
        assert channel.owner.messages == turn + 1
        assert channel.owner.output == b"printed before the answer" * (turn + 1)
        channel.conversation.start_request()
        asked.release()
    thread.join()


def test_a_callback_for_output_that_raises_loses_no_answer(ends: tuple[Channel, socket.socket, int]) -> None:
    channel, guest, out = ends

    def fail(stream: str, data: bytes) -> None:
        raise LookupError(stream)

    channel.owner.on_output = fail  # type: ignore[method-assign, union-attr]
    os.write(out, b"text")
    guest.sendall(wire.encode(wire.Done(id=1)))
    with pytest.raises(LookupError):
        channel.wait_answer(None)
    assert not channel.torn
    assert isinstance(channel.take_answer(), wire.Done)


def test_a_turn_reads_a_few_small_frames_and_large_ones_whole(ends: tuple[Channel, socket.socket, int]) -> None:
    channel, guest, _out = ends
    assert isinstance(channel.owner, Owner)
    small = wire.encode(wire.GuestMessage(encoded=b"\xc0"))
    guest.sendall(small * 2000)
    channel.pump(0)
    first = channel.owner.messages
    assert 0 < first <= 2048 // len(small)
    while channel.owner.messages < 2000:
        assert channel.pump(0)
    guest.sendall(wire.encode(wire.GuestMessage(encoded=bytes(100_000))))
    turns = 0
    while channel.owner.messages < 2001:
        assert channel.pump(0)
        turns += 1
    assert turns <= 4


def test_frames_of_two_threads_are_never_mixed_also_past_what_the_socket_takes(
    ends: tuple[Channel, socket.socket, int],
) -> None:
    channel, guest, _ = ends
    posted = 60
    large = wire.HostMessage(encoded=bytes(100_000))
    buffer, seen = wire.FrameBuffer(wire.MAX_HOST_FRAME_BYTES), {"HostMessage": 0, "Request": 0}

    def answer() -> None:
        while seen["Request"] < posted or seen["HostMessage"] < posted:
            payload = buffer.take(guest.recv(1 << 16))
            while payload is not None:
                frame = wire.decode_host(payload)
                seen[type(frame).__name__] += 1
                if isinstance(frame, wire.Request):
                    guest.sendall(wire.encode(wire.Done(id=1)))
                payload = buffer.next_payload()

    def post() -> None:
        for _ in range(posted):
            channel.send(large)

    threads = [threading.Thread(target=one) for one in (answer, post)]
    for one in threads:
        one.start()
    for turn in range(posted):
        assert isinstance(channel.ask(wire.Request(kind="call", source="f"), [], None), wire.Done)
        if turn + 1 < posted:
            channel.conversation.start_request()
    threads[1].join()
    while threads[0].is_alive():
        channel.pump(0.01)  # what the socket had no room for
    threads[0].join()
    assert seen == {"HostMessage": posted, "Request": posted}
