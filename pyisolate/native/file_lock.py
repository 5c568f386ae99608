"""Locks of files that a guest may lock, too (flock(2))."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable

#: Between two tries to have a lock (seconds).
_PAUSE_S = 0.01


def lock_within(
    descriptor: int,
    timeout_s: float,
    *,
    now: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> bool:
    """Lock an open file against all others; False where another one holds the lock for `timeout_s`. 0.0: one try.

    It takes no right to write, so a guest that may read the file can hold it for ever. `now` and `pause` are the clock.
    """
    deadline = now() + timeout_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if now() >= deadline:
                return False
            pause(_PAUSE_S)
        else:
            return True
