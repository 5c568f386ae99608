"""The host's end of one cell: its socket, output pipes and pidfd, and the only code that reads from them.

One thread at a time owns a channel. A caller that runs a request reads the frames itself, with no hop between
threads; while nobody does, the reactor serves what the guest sends on its own. Nothing here trusts the cell.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import threading
import time
from typing import Protocol

from ..native import process
from . import wire

_log = logging.getLogger("pyisolate.cell")
#: Larger buffers come from mmap and go back with munmap at each call: 48 instead of 31 us for a round trip of 1 kB.
_RECEIVE_BYTES = 1 << 16
#: Bytes that the host keeps for a cell that does not read; past this, `post` and requests are refused.
MAX_OUTBOX_BYTES = 64 << 20
#: A signal that comes just before the call that waits does not end it: Ctrl-C is looked for this often (seconds).
_LOOK_UP_S = 1.0
#: What a socket's buffer holds, read with room to spare: nobody adds to it any more.
_REST_READS = 256
#: How a socket says that the cell has died, with data of ours still unread or not: its exit status tells why.
_GONE = (BrokenPipeError, ConnectionResetError)


class Backlog(Exception):
    """The cell does not read what it is sent."""


class ChannelOwner(Protocol):
    """Who is told what a cell sends (a `Sandbox`, or the pool before hand-out)."""

    def on_denial(self, frame: wire.Denial) -> None:
        """Handle a record of the guest's broker."""

    def on_message(self, frame: wire.GuestMessage) -> None:
        """Handle an object that the guest posted."""

    def on_output(self, stream: str, data: bytes) -> None:
        """Handle output; `stream` is stdout or stderr."""

    def on_ended(self, reason: str) -> None:
        """Handle the end of the cell: end of file, or a broken protocol (`reason` says)."""


class Channel:
    """Socket, pipes and pidfd of one cell, with the protocol state. Takes the descriptors, also when it fails."""

    def __init__(self, pid: int, descriptors: tuple[int, int, int, int], asked: int | None = None) -> None:
        channel, out_read, err_read, self.pidfd = descriptors
        try:
            self.poller = select.epoll(4)
            for descriptor in (channel, out_read, err_read):
                self.poller.register(descriptor, select.EPOLLIN)
        except OSError:
            for descriptor in (*descriptors, *(() if asked is None else (asked,))):
                os.close(descriptor)
            raise
        self.pid = pid
        self._pidfd_lock = threading.Lock()
        self.peer = socket.socket(fileno=channel)
        self.peer.setblocking(False)
        self._pipes = {out_read: "stdout", err_read: "stderr"}
        for pipe in self._pipes:
            os.set_blocking(pipe, False)
        self.conversation = wire.Conversation()
        self.listener: int | None = None
        self.asked = asked
        self.owner: ChannelOwner | None = None
        self.lock = threading.RLock()
        self.ended: str | None = None
        self.exit_status: int | None = None
        self.exited = threading.Event()
        self.released = False
        #: what the cell said it applied when it was forked; only ever written before guest code ran
        self.steps: tuple[str, ...] = ()
        self.failed_steps: tuple[tuple[str, str], ...] = ()
        self._buffer = wire.FrameBuffer(wire.MAX_GUEST_FRAME_BYTES)
        self._outbox = bytearray()
        self._send_lock = threading.RLock()
        self.reloaded: wire.Reloaded | None = None
        self._answer: wire.GuestFrame | None = None
        self._closed = False

    # -- sending --------------------------------------------------------------------------------------------

    def send(self, frame: wire.HostFrame, descriptors: list[int] | None = None) -> None:
        """Send or queue one frame, from any thread. Raises Backlog when the cell has stopped reading."""
        with self._send_lock:
            self._send(wire.encode(frame), descriptors)

    def _send(self, data: bytes, descriptors: list[int] | None) -> None:
        if self._outbox and descriptors:
            raise Backlog("descriptors cannot be queued behind unread data")
        if len(self._outbox) + len(data) > MAX_OUTBOX_BYTES:
            raise Backlog(f"{len(self._outbox)} bytes are waiting to be read by the guest")
        sent = 0
        if not self._outbox:
            try:
                sent = socket.send_fds(self.peer, [data], descriptors) if descriptors else self.peer.send(data)
            except BlockingIOError:
                if descriptors:
                    raise Backlog("the cell does not read") from None
            except _GONE:
                return  # what it had sent before is still read; then comes the end of the stream
            except OSError as error:
                self.end(f"channel closed ({error.strerror})")
                return
        if sent < len(data):
            self._outbox += memoryview(data)[sent:]
            self._watch_socket()

    def _watch_socket(self) -> None:
        events = select.EPOLLIN | (select.EPOLLOUT if self._outbox else 0)
        if not self._closed and self.ended is None:
            self.poller.modify(self.peer.fileno(), events)

    def _flush(self) -> None:
        with self._send_lock:
            try:
                sent = self.peer.send(self._outbox)
            except BlockingIOError:
                return
            except _GONE:
                sent = len(self._outbox)
            except OSError as error:
                self.end(f"channel closed ({error.strerror})")
                return
            del self._outbox[:sent]
            if not self._outbox:
                self._watch_socket()

    # -- receiving ------------------------------------------------------------------------------------------

    def pump(self, timeout_s: float | None) -> bool:
        """Wait for events and handle them; False when nothing came in time. The caller holds `lock`."""
        if self._closed:
            return False
        events = self.poller.poll(timeout_s)
        mine = self.peer.fileno()
        unanswered = self._answer is None
        for descriptor, mask in events:
            if descriptor in self._pipes:
                self._read_pipe(descriptor)
            elif descriptor == mine:
                if mask & select.EPOLLOUT:
                    self._flush()
                if mask & ~select.EPOLLOUT:
                    self._read_socket()
        if unanswered and self._answer is not None:
            self._read_output()
        return bool(events)

    def _read_output(self) -> None:
        """Read what was written before the answer: the poll may have been for an earlier frame that it came with."""
        for descriptor, _mask in () if self._closed else self.poller.poll(0):
            if descriptor in self._pipes:
                self._read_pipe(descriptor)

    def wait_answer(self, deadline: float | None) -> wire.GuestFrame | None:
        """Pump until the outstanding question is answered. None at the deadline or when the cell has ended."""
        while self._answer is None and self.ended is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return None
            self.pump(_LOOK_UP_S if left is None else min(left, _LOOK_UP_S))
        return self.take_answer()

    def _read_pipe(self, descriptor: int) -> None:
        try:
            data = os.read(descriptor, _RECEIVE_BYTES)
        except BlockingIOError:
            return
        if not data:
            self.poller.unregister(descriptor)
            return
        if self.owner is not None:
            self.owner.on_output(self._pipes[descriptor], data)

    def read_rest(self) -> None:
        """Handle what a dead cell had sent: a refusal is told of before it is raised, and was told of in there.

        Left to whoever owns the channel, where somebody does: they read until the end of the stream.
        """
        if not self.lock.acquire(blocking=False):
            return
        try:
            for _ in range(_REST_READS):
                if self.ended is not None or not self._read_socket():
                    return
        finally:
            self.lock.release()

    def _read_socket(self) -> bool:
        """Read once and handle the frames that are whole by then; False where nothing had come."""
        try:
            if self.conversation.phase is wire.Phase.WARMING:
                data, descriptors, _flags, _address = socket.recv_fds(self.peer, _RECEIVE_BYTES, 1)
                self._keep_listener(descriptors)
            else:
                # recv, not recvmsg: descriptors that a guest sends are dropped by the kernel, never installed here
                data = self.peer.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return False
        except _GONE:
            data = b""
        except OSError as error:
            self.end(f"channel closed ({error.strerror})")
            return False
        if not data:
            self.end("")
            return False
        try:
            self._buffer.feed(data)
            while (payload := self._buffer.next_payload()) is not None:
                frame = wire.decode_guest(payload)
                self.conversation.accept(frame)
                self._dispatch(frame)
        except wire.WireError as error:
            _log.warning("cell %d broke the protocol and is killed: %s", self.pid, error)
            self.end(f"protocol violation: {error}")
            self.signal(signal.SIGKILL)
        return True

    def _keep_listener(self, descriptors: list[int]) -> None:
        for descriptor in descriptors:
            if self.listener is None:
                self.listener = descriptor
                os.set_inheritable(descriptor, False)
            else:
                os.close(descriptor)

    def _dispatch(self, frame: wire.GuestFrame) -> None:
        if isinstance(frame, wire.Denial):
            if self.owner is not None:
                self.owner.on_denial(frame)
        elif isinstance(frame, wire.GuestMessage):
            if self.owner is not None:
                self.owner.on_message(frame)
        elif isinstance(frame, wire.Reloaded):
            self.reloaded = frame
        else:
            self._answer = frame

    def take_answer(self) -> wire.GuestFrame | None:
        """Return the answer that has come, if any, and forget it."""
        answer, self._answer = self._answer, None
        return answer

    # -- end ------------------------------------------------------------------------------------------------

    def end(self, reason: str) -> None:
        """Note that nothing more will come; tell the owner once."""
        if self.ended is not None:
            return
        self.ended = reason
        self.conversation.phase = wire.Phase.DEAD
        for pipe in list(self._pipes):
            self._drain_pipe(pipe)
        if self.owner is not None:
            self.owner.on_ended(reason)

    def _drain_pipe(self, descriptor: int) -> None:
        for _ in range(64):
            try:
                data = os.read(descriptor, _RECEIVE_BYTES)
            except OSError:
                return
            if not data:
                return
            if self.owner is not None:
                self.owner.on_output(self._pipes[descriptor], data)

    def signal(self, number: int) -> bool:
        """Signal the cell's first process; False when it is gone. Race-free: the pidfd names that process only."""
        with self._pidfd_lock:
            if self._closed:
                return False  # its number may be another cell's by now
            try:
                process.pidfd_send_signal(self.pidfd, number)
            except OSError:
                return False
        return True

    def close_asked(self) -> None:
        """Close the asked page's descriptor; the listener has mapped it, if there is one."""
        with self.lock:
            if self.asked is not None:
                os.close(self.asked)
                self.asked = None

    def abandon(self) -> None:
        """In a forked child of the host: close what was inherited. The locks are new, their holders do not exist."""
        self.lock, self._send_lock, self._pidfd_lock = threading.RLock(), threading.RLock(), threading.Lock()
        self.ended = self.ended or "forked"
        self.close()

    def close(self) -> None:
        """Read what is left and release every descriptor. The cell must have been killed before."""
        with self.lock:
            self.read_rest()
            with self._pidfd_lock:
                if self._closed:
                    return
                self._closed = True
            if self.ended is None:
                self.ended = "closed"
            self.conversation.phase = wire.Phase.DEAD
            self.poller.close()
            self.peer.close()
            for descriptor in (*self._pipes, self.pidfd):
                os.close(descriptor)
            if self.listener is not None:
                os.close(self.listener)
                self.listener = None
            self.close_asked()
