"""What a guest posted and the host did not receive yet: kept as it came on the wire, decoded by its receiver."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable

#: A message's place in the queue (bytes).
_PLACE = 8


def _taken(encoded: bytes) -> int:
    """Return what a message takes of the host's memory: one of two bytes takes twenty times as many."""
    return sys.getsizeof(encoded) + _PLACE


def _cancelled() -> BaseException:
    import asyncio  # which most hosts do without

    return asyncio.CancelledError()


class Mailbox:
    """Encoded messages, oldest first. Thread-safe. `waiting_bytes` is what they take of the host's memory."""

    def __init__(self) -> None:
        self._messages: deque[bytes] = deque()
        self._changed = threading.Condition()
        self.waiting_bytes = 0

    def put(self, encoded: bytes) -> None:
        """Add a message."""
        with self._changed:
            self._messages.append(encoded)
            self.waiting_bytes += _taken(encoded)
            self._changed.notify()

    def put_back(self, encoded: bytes) -> None:
        """Return a message to the front: the task that took it has gone."""
        with self._changed:
            self._messages.appendleft(encoded)
            self.waiting_bytes += _taken(encoded)
            self._changed.notify()

    def take(
        self,
        timeout: float | None,
        ended: Callable[[], Exception | None],
        given_up: threading.Event | None = None,
    ) -> bytes | None:
        """Wait for a message and take it; None after `timeout` seconds.

        Raises what `ended` returns where there is none and none will come, CancelledError where `given_up` is set.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while True:
                if given_up is not None and given_up.is_set():
                    raise _cancelled()
                if self._messages:
                    break
                if (error := ended()) is not None:
                    raise error
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return None
                self._changed.wait(left)
            encoded = self._messages.popleft()
            self.waiting_bytes -= _taken(encoded)
            return encoded

    def wake(self) -> None:
        """Wake all waiters to re-check their condition."""
        with self._changed:
            self._changed.notify_all()
