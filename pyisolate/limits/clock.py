"""The time that the watchdog goes by; a test gives it one that stands still until the test moves it."""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """A clock, and how to wait on it."""

    def now_ns(self) -> int:
        """Return the time in nanoseconds, from an arbitrary start."""

    def wait(self, condition: threading.Condition, timeout_s: float | None) -> None:
        """Wait on `condition`, whose lock the caller holds, until it is notified or `timeout_s` is over."""


class MonotonicClock:
    """CLOCK_MONOTONIC (clock_gettime(2))."""

    def now_ns(self) -> int:
        """Return the time in nanoseconds."""
        return time.monotonic_ns()

    def wait(self, condition: threading.Condition, timeout_s: float | None) -> None:
        """Wait on `condition`."""
        condition.wait(timeout_s)
