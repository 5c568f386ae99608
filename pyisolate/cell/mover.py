"""A thread for what a warm cell needs and the kernel may take long over: to move a process into a control group waits
for a grace period of RCU, 11 ms after a rest, and until then the reactor serves all others.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

from ..native.threads import Thread
from .channel import Channel

_log = logging.getLogger("pyisolate.pool")
_CLOSE_TIMEOUT_S = 5.0


class Mover:
    """Calls `move` with one cell after the other. The thread starts with the first one."""

    def __init__(self, move: Callable[[Channel], None]) -> None:
        self._move = move
        self._queue: SimpleQueue[Channel | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._closed = False

    def submit(self, channel: Channel) -> None:
        """Have a cell moved; here and now where no thread can be started. One caller at a time."""
        if self._thread is None:
            thread = Thread(target=self._run, name="pyisolate-mover")
            try:
                thread.start()
            except RuntimeError:
                self._move(channel)
                return
            self._thread = thread
        self._queue.put(channel)

    def close(self) -> None:
        """End the thread once what it has is done."""
        self._closed = True
        self._queue.put(None)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_CLOSE_TIMEOUT_S)

    def abandon(self) -> None:
        """In a forked child of the host, where the thread does not exist."""
        self._thread, self._queue = None, SimpleQueue()

    def _run(self) -> None:
        while (channel := self._queue.get()) is not None and not self._closed:
            try:
                self._move(channel)
            except Exception:
                _log.exception("moving cell %d failed", channel.pid)
