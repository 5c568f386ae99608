"""The host's end of a cell: what comes with what."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from pyisolate.cell import wire
from pyisolate.cell.channel import Channel
from pyisolate.policy.compiled import CompiledPolicy


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


def test_what_a_cell_without_a_guest_says_is_logged(
    ends: tuple[Channel, socket.socket, int], caplog: pytest.LogCaptureFixture
) -> None:
    channel, _guest, out = ends
    kept, channel.owner = channel.owner, None
    os.write(out, b"OSError: no room\n")
    channel.pump(0)
    assert [(one.name, one.getMessage()) for one in caplog.records] == [
        ("pyisolate.cell", f"cell {os.getpid()}: OSError: no room")
    ]
    channel.owner = kept


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

    deadline = time.monotonic() + 60
    guest.settimeout(60)
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        both = [threads.submit(one) for one in (answer, post)]
        for turn in range(posted):
            answered = channel.ask(wire.Request(kind="call", source="f"), [], deadline)
            assert isinstance(answered, wire.Done), [one.exception() for one in both if one.done()]
            if turn + 1 < posted:
                channel.conversation.start_request()
        while not all(one.done() for one in both) and time.monotonic() < deadline:
            channel.pump(0.01)  # what the socket had no room for
        for one in both:
            one.result(1)
    assert seen == {"HostMessage": posted, "Request": posted}


def test_what_is_sent_after_the_end_reaches_no_other_with_its_number(ends: tuple[Channel, socket.socket, int]) -> None:
    channel, _guest, _out = ends
    channel.owner = None
    number = channel.peer.fileno()
    ours, others = socket.socketpair()
    with ours, others:
        channel.close()
        os.dup2(ours.fileno(), number)  # as the next cell's channel gets it
        try:
            channel.send(wire.HostMessage(encoded=b"one tenant's"))
            assert channel.ask(wire.Request(kind="call", source="f"), [], None) is None
            others.setblocking(False)
            with pytest.raises(BlockingIOError):
                others.recv(100)
        finally:
            os.close(number)


def test_a_callback_that_closes_its_sandbox_is_given_no_others_output(ends: tuple[Channel, socket.socket, int]) -> None:
    channel, _guest, out = ends
    assert isinstance(channel.owner, Owner)
    number = next(pipe for pipe, name in channel._pipes.items() if name == "stdout")
    others_read, others_write = os.pipe2(os.O_NONBLOCK)
    seen: list[bytes] = []

    def close(stream: str, data: bytes) -> None:
        seen.append(data)
        channel.close()
        os.dup2(others_read, number)

    channel.owner.on_output = close  # type: ignore[method-assign]
    channel.owner.on_ended = lambda _reason: None  # type: ignore[method-assign]
    os.write(others_write, b"another's")
    os.write(out, b"its own")
    channel.end("over")
    assert seen == [b"its own"]
    for descriptor in (number, others_read, others_write):
        os.close(descriptor)


def test_a_cell_that_asks_for_its_policy_and_reads_nothing_is_ended(
    ends: tuple[Channel, socket.socket, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, guest, _out = ends
    channel.owner, signals = None, []
    monkeypatch.setattr(channel, "signal", signals.append)  # the fixture's process is this one
    channel.send(wire.HostMessage(encoded=bytes(1 << 20)))  # more than the socket takes
    number = channel.conversation.start_reload()
    channel.keep(wire.Reload(id=number, policy=CompiledPolicy(name="p", version="1")))
    monkeypatch.setattr("pyisolate.cell.outbox.MAX_OUTBOX_BYTES", 0)
    guest.sendall(wire.encode(wire.Wanted()))
    assert channel.wait_answer(None) is None  # and raises nothing: its caller would take the request for not sent
    assert channel.ended is not None
    assert "does not read" in channel.ended
    assert (channel.conversation.phase, signals) == (wire.Phase.DEAD, [signal.SIGKILL])


def failing(channel: Channel) -> tuple[Owner, list[str]]:
    """Have the callback for output raise; return the owner, and the list to which the ends are noted."""
    owner, ended = channel.owner, list[str]()
    assert isinstance(owner, Owner)

    def fail(stream: str, data: bytes) -> None:
        raise LookupError(stream)

    owner.on_output = fail  # type: ignore[method-assign]
    owner.on_ended = ended.append  # type: ignore[method-assign]
    return owner, ended


def test_a_dead_cell_is_read_to_the_end_though_a_callback_raises(ends: tuple[Channel, socket.socket, int]) -> None:
    channel, guest, out = ends
    owner, ended = failing(channel)
    os.write(out, b"text")
    guest.sendall(wire.encode(wire.GuestMessage(encoded=b"\xc0")))
    guest.close()
    channel.read_out()
    assert (owner.messages, ended) == (1, [""])


def test_an_end_is_noted_though_a_callback_for_the_last_output_raises(ends: tuple[Channel, socket.socket, int]) -> None:
    channel, _guest, out = ends
    _, ended = failing(channel)
    os.write(out, b"text")
    with pytest.raises(LookupError):
        channel.end("over")
    assert ended == ["over"]


def test_a_forked_child_that_gives_its_copy_up_leaves_the_output_to_its_parent(
    ends: tuple[Channel, socket.socket, int],
) -> None:
    channel, _guest, out = ends
    assert isinstance(channel.owner, Owner)
    os.write(out, b"for the parent")
    if (child := os.fork()) == 0:
        status = 1
        try:
            channel.abandon()
            status = int(channel.owner.output != b"")
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    channel.pump(0)
    assert channel.owner.output == b"for the parent"
