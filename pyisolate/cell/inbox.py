"""What a cell receives: frames of the host, read by one thread of the guest at a time and sorted for all of them."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable

from ..hooks.interrupts import INTERRUPTS
from ..native.channel import SMALL_BYTES, GuestEnd
from ..native.descriptors import receive
from . import wire

#: What guest code that waits without a time-out waits (seconds): with it, the wait is one that an interrupt ends.
FOREVER_S = 1e6
#: How long a thread that waits for the reader trusts to be woken (seconds).
_LOOK_UP_S = 1.0


class HostGone(BaseException):
    """The supervisor closed the channel; nothing may run on."""


class Inbox:
    """Frames from the host. One thread reads at a time and sorts what comes; the others wait for what is theirs."""

    #: from `open` on
    _channel: socket.socket

    def __init__(self) -> None:
        self._end = GuestEnd()
        self._buffer = wire.FrameBuffer(wire.MAX_HOST_FRAME_BYTES)
        self._descriptors: list[int] = []
        self._lock = threading.RLock()
        #: one held lock for each thread that waits for the reader; it gives them back when its turn ends
        self._waiting: deque[threading.Lock] = deque()
        self._poller = select.poll()
        self.messages: deque[bytes] = deque()
        self.requests: deque[wire.Request | wire.Init | wire.Begin] = deque()
        self.stdins: deque[list[int]] = deque()
        self.launches: deque[list[int]] = deque()
        self.reloads: deque[tuple[wire.Reload, list[int]]] = deque()
        #: calls of functions of the host that have not returned, with their answers once they came
        self.calls: dict[int, wire.HostAnswer | None] = {}
        self.on_functions: Callable[[wire.Functions], None] = lambda _frame: None

    def open(self, channel: socket.socket) -> None:
        """Read what comes on `channel`, from now on."""
        self._channel = channel
        self._end.open(channel.fileno())
        self._poller.register(channel, select.POLLIN)

    def accept(self, data: bytes, descriptors: list[int]) -> None:
        """Take what was received before this one read."""
        self._descriptors += descriptors
        self._buffer.feed(data)

    def rehearse(self, frame: bytes) -> wire.Request | wire.Init | wire.Begin:
        """Do with a frame what is done with one that comes, and return it: the pages that this writes are then own."""
        with self._lock:
            self._end.rehearse()
            payload = frame[wire.HEADER.size :] if self._buffer.kept else self._buffer.take(frame)
            if payload is not None:
                self._sort(wire.decode_host(payload))
        return self.requests.pop()

    def take_descriptors(self, count: int) -> list[int]:
        """Return the oldest `count` received descriptors."""
        taken, self._descriptors = self._descriptors[:count], self._descriptors[count:]
        return taken

    def wait(self, ready: Callable[[], object], timeout_s: float | None = None) -> bool:
        """Read, or wait for the thread that reads, until `ready` says so; False when it does not in time.

        Raises HostGone at end of file. Without a time-out it notices no interrupt: for guest code, see `FOREVER_S`.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not ready():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            if not self._lock.acquire(blocking=False):
                self._wait_turn(ready, _LOOK_UP_S if left is None else min(left, _LOOK_UP_S))
                continue
            try:
                if not ready():  # the reader before may have read it
                    self._read(left)
            finally:
                self._release()
        return True

    def wait_idle(self) -> None:
        """Read, or wait for the thread that reads, until a request or reload is there.

        For the thread that runs requests, in which no interrupt is raised now. May return before, too.
        """
        if not self._lock.acquire(blocking=False):
            self.wait(lambda: self.requests or self.reloads)
            return
        try:
            if not self.requests and not self.reloads:
                payload = self._buffer.next_payload() if self._buffer.kept else None
                if payload is not None or (payload := self._receive()) is not None:
                    self._sort(wire.decode_host(payload))
        finally:
            self._release()

    def _wait_turn(self, ready: Callable[[], object], timeout_s: float) -> None:
        turn = threading.Lock()
        turn.acquire()
        self._waiting.append(turn)
        if ready():  # the reader sorted it before it could see that this thread waits
            return
        if self._lock.acquire(blocking=False):  # or has ended
            self._release()
        else:
            turn.acquire(timeout=timeout_s)

    def _release(self) -> None:
        self._lock.release()
        while self._waiting:
            with contextlib.suppress(IndexError):  # the next reader's turn has ended as well
                self._waiting.popleft().release()

    def _read(self, timeout_s: float | None) -> bool:
        """Wait for and sort one frame; False when none came in time. The caller holds the lock."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        payload = self._buffer.next_payload()
        while payload is None:
            if deadline is not None and not self._readable(deadline - time.monotonic()):
                return False
            with INTERRUPTS:  # part of a frame would be lost
                payload = self._receive()
        self._sort(wire.decode_host(payload))
        return True

    def _receive(self) -> bytes | None:
        if self._buffer.missing > SMALL_BYTES:
            data, descriptors, _ = receive(self._channel, 1 << 16, 8)
        elif (received := self._end.receive()) is not None:
            data, descriptors = received
        else:
            return None
        if not data:
            raise HostGone
        if descriptors:
            self._descriptors += descriptors
        return self._buffer.take(data)

    def _readable(self, timeout_s: float) -> bool:
        return bool(self._poller.poll(max(0, int(timeout_s * 1000))))

    def sort_waiting(self) -> None:
        """Sort what has arrived, without waiting: for it, or for a thread that reads already."""
        if self._lock.acquire(blocking=False):
            try:
                while self._read(0):  # what an earlier read had received counts too
                    pass
            finally:
                self._release()

    def _sort(self, frame: wire.HostFrame) -> None:
        if isinstance(frame, wire.Request):
            if frame.stdin:
                self.stdins.append(self.take_descriptors(1))
            elif frame.kind == "launch":
                self.launches.append(self.take_descriptors(wire.LAUNCH_DESCRIPTORS))
            self.requests.append(frame)
        elif isinstance(frame, wire.HostMessage):
            self.messages.append(frame.encoded)
        elif isinstance(frame, (wire.Returned, wire.Raised)):
            if frame.id in self.calls:  # else its caller has given up
                self.calls[frame.id] = frame
        elif isinstance(frame, wire.Reload):
            self.reloads.append((frame, self.take_descriptors(len(frame.descriptors))))
        elif isinstance(frame, wire.Functions):
            self.on_functions(frame)
        else:
            self.requests.append(frame)
