"""Calls of the supervisor's that workers of the root view builder answer, and how many of each sandbox there may be.

A worker acts on the host's file systems, and one of those may let it wait for as long as it likes: a FUSE server may be
a guest's friend. So each call has a worker and a socket of its own, and an end in time; one of a guest's whose worker
goes on without an answer keeps its place among those of its sandbox alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator

import msgspec

from ...native.descriptors import receive
from .worker import LENGTH, Reply, Request

#: Calls of one sandbox that workers carry out at a time.
MOST_OF_ONE = 8
#: Calls that had no answer in time and whose workers go on, of all sandboxes.
_MOST_LATE = 256
_LOOK_S = 1.0  # how often who waits for a place looks whether a worker has ended


class NoAnswer(OSError):
    """No answer came in time, or none is waited for any more: what was asked may be done."""


class NotBegun(OSError):
    """No worker was asked: too many are, or the supervisor closes."""


class Call:
    """One request: the socket on which its worker reads and answers it. `theirs` is handed to the forker."""

    def __init__(self, request: Request) -> None:
        self._data = msgspec.msgpack.encode(request)
        self._ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._given_up = False

    def send(self) -> None:
        """Send the request, once the forker has its end. Raises OSError."""
        self.theirs.close()
        with contextlib.suppress(ConnectionError):  # the forker answers by itself what it cannot have done
            self._ours.sendall(LENGTH.pack(len(self._data)) + self._data)

    def answer(self, timeout_s: float) -> tuple[Reply, list[int]]:
        """Return the answer, and descriptors that are the caller's. Raises NoAnswer, EOFError, OSError.

        After NoAnswer none comes: its worker cannot send one.
        """
        self._ours.settimeout(timeout_s)
        try:
            head, descriptors, dropped = receive(self._ours, LENGTH.size, 2)
        except TimeoutError:
            self.give_up()
            head, descriptors, dropped = receive(self._ours, LENGTH.size, 2)  # it may have come in between
        try:
            if dropped:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            if len(head) < LENGTH.size:
                raise NoAnswer(errno.ETIMEDOUT, "it gave no answer") if self._given_up else EOFError("it ended")
            body = read_exactly(self._ours, LENGTH.unpack(head)[0])
            return msgspec.msgpack.decode(body, type=Reply), descriptors
        except BaseException:
            for descriptor in descriptors:
                os.close(descriptor)
            raise

    def pinged(self, timeout_s: float) -> bool:
        """Tell whether the forker says within that time that it serves: a byte, in the place of an answer."""
        self.theirs.close()
        self._ours.settimeout(timeout_s)
        try:
            return bool(self._ours.recv(1))
        except OSError:
            return False

    def give_up(self) -> None:
        """Wait for no answer any more, on whatever thread that is; its worker cannot send one from now on."""
        self._given_up = True
        with contextlib.suppress(OSError):  # it is closed
            self._ours.shutdown(socket.SHUT_RD)

    def has_ended(self) -> bool:
        """Tell whether its worker has ended."""
        seen = select.poll()
        seen.register(self._ours, 0)
        return any(events & select.POLLHUP for _, events in seen.poll(0))

    def close(self) -> None:
        """Close both ends."""
        self._ours.close()
        self.theirs.close()


class Places:
    """How many calls of guests are with workers, by sandbox. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._taken: Counter[str] = Counter()
        self._late: dict[str, list[Call]] = {}

    def take(self, sandbox_id: str, timeout_s: float) -> None:
        """Take a place of a sandbox's, which `give_back` returns. Raises NotBegun where none comes free in time."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                self._forget_ended()
                late = len(self._late.get(sandbox_id, ()))
                if late >= MOST_OF_ONE or sum(map(len, self._late.values())) >= _MOST_LATE:
                    raise NotBegun(errno.EBUSY, f"{late} calls before it have no answer from their file systems")
                if self._taken[sandbox_id] + late < MOST_OF_ONE:
                    self._taken[sandbox_id] += 1
                    return
                if (left := deadline - time.monotonic()) <= 0:
                    raise NotBegun(errno.EBUSY, "those before it are not answered")
                self._changed.wait(min(left, _LOOK_S))

    def give_back(self, sandbox_id: str, late: Call | None) -> None:
        """Give a place back; `late`, which is taken, keeps it until its worker ends."""
        with self._changed:
            self._taken[sandbox_id] -= 1
            if not self._taken[sandbox_id]:
                del self._taken[sandbox_id]
            if late is not None:
                self._late.setdefault(sandbox_id, []).append(late)
            self._changed.notify_all()

    def _forget_ended(self) -> None:
        for sandbox_id, calls in list(self._late.items()):
            for call in [one for one in calls if one.has_ended()]:
                calls.remove(call)
                call.close()
            if not calls:
                del self._late[sandbox_id]

    def close(self) -> None:
        """Wait for no worker any more."""
        with self._changed:
            for call in [one for calls in self._late.values() for one in calls]:
                call.close()
            self._late.clear()


class UnderWay:
    """The calls that wait for answers now, so that others than their threads can end that. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[Call, bool] = {}
        self._closed = False

    @contextlib.contextmanager
    def noted(self, call: Call, *, of_guest: bool) -> Iterator[None]:
        """Note a call in this block. Raises NotBegun for a guest's where those are given up."""
        with self._lock:
            if of_guest and self._closed:
                raise NotBegun(errno.ECANCELED, "its supervisor closes")
            self._calls[call] = of_guest
        try:
            yield
        finally:
            with self._lock:
                self._calls.pop(call, None)

    def give_up_guests(self) -> None:
        """Have no call of a guest's wait, from now on."""
        with self._lock:
            self._closed = True
            for call in [one for one, of_guest in self._calls.items() if of_guest]:
                call.give_up()

    def abandon(self) -> None:
        """In a forked child of the host: close the copies."""
        for call in list(self._calls):
            call.close()


def read_exactly(peer: socket.socket, count: int) -> bytes:
    """Return `count` bytes; raise EOFError when the stream ends before."""
    data = bytearray()
    while len(data) < count:
        part = peer.recv(count - len(data))
        if not part:
            raise EOFError("it ended within an answer")
        data += part
    return bytes(data)
