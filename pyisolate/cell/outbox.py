"""What the host sends to one cell: frames in their order, as far as the cell reads them."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Sequence

from ..native import channel as native
from . import wire

#: Bytes that the host keeps for a cell that does not read; past this, `post` and requests are refused.
MAX_OUTBOX_BYTES = 64 << 20
#: How a socket says that the cell has died, with data of ours still unread or not: its exit status tells why.
GONE = (BrokenPipeError, ConnectionResetError)


def _forget(_what: object) -> None: ...


class Backlog(Exception):
    """The cell does not read what it is sent."""


class Outbox:
    """The frames for one cell, of which those that its socket did not take wait. Any thread sends.

    `watch` has the channel's poller look whether the socket can be written to; `on_failed` ends the channel.
    """

    def __init__(
        self,
        end: native.HostEnd,
        peer: socket.socket,
        conversation: wire.Conversation,
        *,
        watch: Callable[[int], None],
        on_failed: Callable[[str], None],
    ) -> None:
        self._end, self._peer, self._conversation = end, peer, conversation
        self._watch, self._on_failed = watch, on_failed
        #: held while something is sent: the number stays this socket's until it has
        self.lock = threading.RLock()
        self._waiting, self._ahead = bytearray(), b""
        #: a reload that comes with the next frame, and whether the guest waits for one
        self._kept: wire.Reload | None = None
        self._wanted = False
        self._closed = False

    @property
    def empty(self) -> bool:
        """True where nothing is to come with the next frame."""
        return not self._ahead and self._kept is None

    def send(self, data: bytes, descriptors: Sequence[int] | None = None) -> None:
        """Send or queue an encoded frame. Raises Backlog when the cell has stopped reading."""
        with self.lock:
            self._send(data, descriptors)

    def send_with_next(self, frame: wire.HostFrame) -> None:
        """Keep one frame until the next is sent, and send both at once: it wakes the cell for nothing."""
        with self.lock:
            self._ahead += wire.encode(frame)

    def keep(self, frame: wire.Reload) -> None:
        """Send a reload with the next frame, or as soon as the guest asks for it: it wakes no cell.

        One that was kept before is not sent: the newest table is the one that counts.
        """
        with self.lock:
            if self._kept is not None:
                self._conversation.cancel_reload(self._kept.id)
            self._kept = frame
            if self._wanted:
                self._send(b"", None)

    def send_kept(self) -> None:
        """Send the reload that is kept now, or the next one as soon as there is one: the guest waits for it."""
        with self.lock:
            self._wanted = True
            if self._kept is not None:
                self._send(b"", None)

    def flush(self) -> None:
        """Send what waits, as far as the socket takes it."""
        with self.lock:
            try:
                sent = self._peer.send(self._waiting)
            except BlockingIOError:
                return
            except GONE:
                sent = len(self._waiting)
            except OSError as error:
                self._on_failed(f"channel closed ({error.strerror})")
                return
            del self._waiting[:sent]
            if not self._waiting:
                self._end.all_sent()
                self._watch(select.EPOLLIN)

    def close(self) -> None:
        """Send nothing any more, and let go of the channel. The caller holds `lock`."""
        self._closed = True
        self._watch = self._on_failed = _forget

    def abandon(self) -> None:
        """In a forked child of the host: the lock is new, its holder does not exist."""
        self.lock = threading.RLock()

    def _send(self, data: bytes, descriptors: Sequence[int] | None) -> None:
        if self._closed:
            return  # it ended while this was on its way, and its number may be another cell's by now
        if self._kept is not None:
            data = wire.encode(self._kept) + data
        if self._ahead:
            data = self._ahead + data
        if self._waiting and descriptors:
            raise Backlog("descriptors cannot be queued behind unread data")
        if len(self._waiting) + len(data) > MAX_OUTBOX_BYTES:
            raise Backlog(f"{len(self._waiting)} bytes are waiting to be read by the guest")
        sent = 0
        if not self._waiting:
            try:
                sent = self._end.send(data, descriptors)
            except BlockingIOError:
                if descriptors:
                    raise Backlog("the cell does not read") from None
            except GONE:
                return  # what it had sent before is still read; then comes the end of the stream
            except OSError as error:
                self._on_failed(f"channel closed ({error.strerror})")
                return
        self._ahead, self._kept, self._wanted = b"", None, False
        if sent < len(data):
            self._waiting += memoryview(data)[sent:]
            self._watch(select.EPOLLIN | select.EPOLLOUT)
