"""The answer that C reads: what it takes for one is what Python takes for one, and all else is left to Python."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

import msgspec
import pytest

from pyisolate.cell import values, wire
from pyisolate.native.channel import HostEnd, Plain

_NUMBER = 0x7102_0304_0506_0708
_encode = msgspec.msgpack.encode


class Ends:
    """A host's end, and the guest's, whose answers are there before they are asked for."""

    def __init__(self) -> None:
        self.host, self.guest = socket.socketpair()
        self.pipes = (*os.pipe(), *os.pipe())
        self.end = HostEnd(self.host.fileno(), self.pipes[0], self.pipes[2], values.MAX_DEPTH)

    def ask(self, answer: bytes) -> Plain | bytes | None:
        self.guest.sendall(answer)
        found = self.end.ask(b"x", _NUMBER, 5)
        self.guest.recv(1)
        return found

    def close(self) -> None:
        for pipe in self.pipes:
            os.close(pipe)
        self.host.close()
        self.guest.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.close()


def _done(encoded: bytes = b"\xc0", **more: object) -> bytes:
    return wire.encode(wire.Done(id=_NUMBER, encoded=encoded, **{"duration_s": 0.25, **more}))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [None, True, -1, 2**63, "text", "x" * 1900, b"\0" * 300, [1, [2]], {"a": {1: 2.5}}])
def test_a_plain_answer_is_read_whole(ends: Ends, value: object) -> None:
    assert ends.ask(_done(_encode(value))) == Plain(_encode(value), 0.25)


def test_what_else_a_cell_sends_is_left_as_it_came(ends: Ends) -> None:
    deep, too_deep = b"\x91" * values.MAX_DEPTH + b"\xc0", b"\x91" * (values.MAX_DEPTH + 1) + b"\xc0"
    assert ends.ask(_done(deep)) == Plain(deep, 0.25)
    for left in (
        _done(too_deep),
        _done(is_repr=True, encoded=b"\xa1x"),
        _done(exit_code=0),
        _done(b""),
        _done(b"\xc0\xc0"),
        _done(b"\xa2x"),
        _done(values.TAGGED + b"\xc0"),
        _done(b"\xc7\x01\x05x"),
        _done() + _done(),
        _done()[:-1],
        wire.encode(wire.Done(id=_NUMBER + 1, duration_s=0.25)),
        wire.encode(wire.Done(id=7, duration_s=0.25)),
        wire.encode(wire.GuestMessage(encoded=b"\xc0")),
        struct.pack(">I", 0),
        b"\0",
    ):
        assert ends.ask(left) == left


def test_output_that_came_before_an_answer_is_taken_before_it(ends: Ends) -> None:
    os.write(ends.pipes[1], b"text")
    assert ends.ask(_done()) == _done()


def test_an_answer_with_any_byte_changed_is_read_as_python_reads_it_or_not_at_all(ends: Ends) -> None:
    answer, read = _done(_encode(["a", {"b": 1}])), 0
    for place in range(len(answer)):
        for changed in {0, 0x7F, 0xC1, 0xFF, answer[place] ^ 1, answer[place] ^ 0x80}:
            sent = answer[:place] + bytes([changed]) + answer[place + 1 :]
            found = ends.ask(sent)
            if isinstance(found, Plain):
                frame = wire.decode_guest(sent[wire.HEADER.size :])
                wire.check_value(found.encoded)
                assert frame == wire.Done(id=_NUMBER, encoded=found.encoded, duration_s=frame.duration_s)  # type: ignore[union-attr]
                assert struct.pack("=d", found.duration_s) == struct.pack("=d", frame.duration_s)  # type: ignore[union-attr]
                read += 1
            else:
                assert found == sent
    assert read > 20  # of duration, and of texts and numbers
