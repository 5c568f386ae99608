"""Threads that start within a limit of time, or not at all.

`threading.Thread.start` waits for the started signal of the new thread, without end: one that had no memory for its
first Python frame ends without it, and its starter waits for ever (CPython 3.11 to 3.14, `Thread._bootstrap_inner`).
Here the starter waits for a started signal of its own, for `PATIENCE_S`. All threads of the package are of this class,
but for those of `concurrent.futures.ThreadPoolExecutor`, which makes its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

#: How long a new thread may take until it runs (seconds): a processor that is shared by fifty takes a tenth of it.
PATIENCE_S = 5.0


class _StartedSignal(threading.Event):
    """What `Thread.start` waits for, as a lock: to wait for it and to give it takes no memory."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self, timeout: float | None = None) -> bool:
        return self._lock.acquire(timeout=PATIENCE_S if timeout is None else timeout)

    def give(self) -> None:
        self._lock.release()


class Thread(threading.Thread):
    """A thread that runs once `start` has returned, and never runs where `start` has raised."""

    def __init__(
        self,
        target: Callable[..., object],
        *,
        args: tuple[object, ...] = (),
        name: str | None = None,
        daemon: bool = True,
    ) -> None:
        super().__init__(target=target, args=args, name=name, daemon=daemon)
        # CPython 3.11 to 3.14: `Thread.start` waits for `_started`, and the new thread sets it before it calls `run`
        self._signal = self._started = _StartedSignal()
        #: taken by the thread when it runs, or by its starter when it gives the thread up
        self._decided = threading.Lock()

    def start(self) -> None:
        """Start the thread, once. Raises RuntimeError where it cannot, or does not run within `PATIENCE_S`."""
        if self._decided.locked():
            raise RuntimeError("threads can only be started once")
        try:
            super().start()
        except BaseException:
            self._give_up()
            raise
        if self._give_up():
            cause = f"can't start new thread: {self.name} did not run within {PATIENCE_S:g} s"
            raise RuntimeError(f"{cause}. Hint: the machine, or its control group, is short of memory or processors")

    def run(self) -> None:
        """Run the target, where the starter waits for it."""
        if self._decided.acquire(blocking=False):
            self._signal.give()
            super().run()

    def _give_up(self) -> bool:
        """Keep the thread from running, however late it comes; False where it runs."""
        if not self._decided.acquire(blocking=False):
            return False
        # CPython 3.11 to 3.14: one that ended before its signal would be among `threading.enumerate()` for ever
        getattr(threading, "_limbo", {}).pop(self, None)
        return True
