"""The stream between host and cell, a turn in one call without the interpreter's lock."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

import msgspec

from ._native import ffi, lib
from .account import Account

#: Received at once. Small frames cost the host most, a hundred microseconds each for a denial, in which other threads
#: wait for the interpreter's lock; a large frame is received otherwise.
SMALL_BYTES = 1 << 11
#: What a turn found to do.
OUT, ERR, WRITABLE, READABLE = lib.CHANNEL_OUT, lib.CHANNEL_ERR, lib.CHANNEL_WRITABLE, lib.CHANNEL_READABLE
_DESCRIPTORS = 8
#: None as msgpack has it: the value that is left out.
_NONE = b"\xc0"


class Plain(msgspec.Struct):
    """The answer that nearly all requests get, as C has read it: `encoded` is one plain value, and not too deep."""

    encoded: bytes
    duration_s: float
    is_repr: bool = False
    exit_code: int | None = None


class HostEnd:
    """The host's end: a socket and two pipes. Owns none of them: `close` comes before they are closed.

    `depth` is that of a guest's value, at most; `account` notes each answer that is read here.
    """

    def __init__(self, peer: int, out: int, err: int, depth: int, account: Account | None = None) -> None:
        self._account = account
        self._data = ffi.new("unsigned char[]", SMALL_BYTES)
        self._view = ffi.buffer(self._data)
        self._channel = ffi.new("struct channel *", (peer, out, err, SMALL_BYTES, 0, 0, 0, 0, 0, self._data, depth))
        if account is not None:
            self._channel.account = account.handle
        #: what there was to do after the last turn
        self.ready = 0

    def turn(self, timeout_s: float | None, *, receive: bool) -> bytes:
        """Wait for something to do, and return what the socket held, `SMALL_BYTES` at most; see `ready`.

        Returns nothing at the time-out and for a signal; READABLE is left where there was an end or an error.
        """
        channel = self._channel
        channel.most = SMALL_BYTES if receive else 0
        return self._received(lib.channel_wait(channel, -1 if timeout_s is None else int(timeout_s * 1000 + 0.999)))

    def ask(self, data: bytes, number: int, timeout_s: float) -> Plain | bytes | None:
        """Send a small frame, request `number`, and wait as `turn` does. None: not sent, other bytes are before it.

        A `Plain` answer is all that came. Part of it is lost (`torn`) until the caller has taken note of it.
        """
        channel = self._channel
        channel.most = SMALL_BYTES
        channel.sent = 0
        got = lib.channel_ask(channel, data, len(data), int(timeout_s * 1000 + 0.999), number)
        return self._answered(got) if channel.sent else None

    def answer(self, number: int, timeout_s: float) -> Plain | bytes:
        """Wait for the answer to request `number`, which was sent otherwise, as `ask` does."""
        self._channel.most = SMALL_BYTES
        return self._answered(lib.channel_answer(self._channel, int(timeout_s * 1000 + 0.999), number))

    def _answered(self, got: int) -> Plain | bytes:
        channel = self._channel
        if channel.plain:
            at, size = channel.value, channel.value_size
            return Plain(self._view[at : at + size] if size else _NONE, channel.duration_s)
        return self._received(got)

    def send(self, data: bytes, descriptors: Sequence[int] | None = None) -> int:
        """Send what there is room for, with descriptors; return how many bytes. Raises OSError."""
        sent = int(lib.channel_send(self._channel, data, len(data), descriptors or ffi.NULL, len(descriptors or ())))
        if sent < 0:
            raise OSError(-sent, os.strerror(-sent), "sendmsg")
        return sent

    def close(self) -> None:
        """Forget the numbers: the next descriptors that are opened get them. Nothing is sent or received after."""
        channel = self._channel
        channel.peer = channel.out = channel.err = -1

    def all_sent(self) -> None:
        """What there was no room for has been sent."""
        self._channel.queued = 0

    def end_of(self, pipe: int) -> None:
        """Wait for this pipe no more: it has ended."""
        channel = self._channel
        if pipe == channel.out:
            channel.out = -1
        else:
            channel.err = -1

    def _received(self, got: int) -> bytes:
        self.ready = self._channel.ready
        if got > 0:
            return bytes(self._view[0:got])
        if got < 0 and got != -errno.EINTR:
            raise OSError(-got, os.strerror(-got), "poll")
        return b""

    @property
    def torn(self) -> bool:
        """True while bytes were taken and not handled: an exception between may have lost them."""
        return bool(self._channel.taken)

    @torn.setter
    def torn(self, torn: bool) -> None:
        self._channel.taken = torn


class GuestEnd:
    """The cell's end: a socket that blocks, and descriptors that arrive by it."""

    #: from `open` on
    _peer: int

    def __init__(self) -> None:
        self._data = ffi.new("unsigned char[]", SMALL_BYTES)
        self._view = ffi.buffer(self._data)
        self._descriptors, self._count = ffi.new("int[]", _DESCRIPTORS), ffi.new("int *")

    def open(self, peer: int) -> None:
        """Receive by the socket `peer`, which the caller keeps open."""
        self._peer = peer

    def receive(self) -> tuple[bytes, list[int]] | None:
        """Return what came, `SMALL_BYTES` at most and none at the end, with descriptors; None for a signal."""
        got = lib.channel_receive(self._peer, self._data, SMALL_BYTES, self._descriptors, _DESCRIPTORS, self._count)
        if got >= 0:
            count = self._count[0]
            return bytes(self._view[0:got]), [self._descriptors[i] for i in range(count)] if count else []
        if got == -errno.EINTR:
            return None
        raise OSError(-got, os.strerror(-got), "recvmsg")

    def rehearse(self) -> None:
        """Go through `receive`, from nowhere."""
        lib.channel_receive(-1, self._data, SMALL_BYTES, self._descriptors, _DESCRIPTORS, self._count)


def lowest_free() -> int:
    """Return the number that the next descriptor gets, -1 where there is none left."""
    return int(lib.channel_lowest_free())


def is_free(number: int) -> bool:
    """Tell whether no descriptor has this number."""
    return bool(lib.channel_is_free(number))


def next_writer(first: int) -> int:
    """Return the lowest descriptor from `first` on that is open for writing, -1 where there is none."""
    return int(lib.channel_next_writer(first))
