"""A thread for descriptors whose end the kernel takes long over.

The last descriptor of a detached tree (`open_tree`, Linux 5.2) takes the tree apart, and waits for a grace period of
RCU: 0.6 to 3 ms, in which no spawn need wait (`namespace_unlock`, fs/namespace.c).
"""

from __future__ import annotations

import os
import threading
from queue import SimpleQueue

from ..native.threads import Thread

#: More descriptors than these, which take the thread 0.2 s at 3 ms each, are closed by their caller.
MOST_WAITING = 64
_CLOSE_TIMEOUT_S = 5.0


class Closer:
    """Closes one descriptor after the other. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: SimpleQueue[int | None] = SimpleQueue()
        #: what a forked child of the host has copies of
        self._waiting: set[int] = set()
        self._thread: Thread | None = None

    def start(self) -> None:
        """Start the thread. Raises RuntimeError where there is none to be had."""
        thread = Thread(self._run, name="pyisolate-closer")
        thread.start()
        self._thread = thread

    def close_later(self, descriptor: int) -> None:
        """Have a descriptor closed; here and now where so many wait, and where no thread runs."""
        with self._lock:
            later = self._thread is not None and self._queue.qsize() < MOST_WAITING
            if later:
                self._waiting.add(descriptor)
                self._queue.put(descriptor)
        if not later:
            os.close(descriptor)

    def stop(self) -> None:
        """End the thread once it has closed what it has. Idempotent."""
        with self._lock:
            thread, self._thread = self._thread, None
            self._queue.put(None)
        if thread is not None:
            thread.join(_CLOSE_TIMEOUT_S)

    def abandon(self) -> None:
        """In a forked child of the host, where the thread does not exist: close the copies."""
        self._thread, self._queue, self._lock = None, SimpleQueue(), threading.Lock()
        while self._waiting:
            os.close(self._waiting.pop())

    def _run(self) -> None:
        while (descriptor := self._queue.get()) is not None:
            self._waiting.discard(descriptor)
            os.close(descriptor)
