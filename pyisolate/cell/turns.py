"""Fair turns for cells: what a guest sends may cost the host far more than the guest, under one interpreter's lock.

The frames of a cell that is past its budget of the host's time (`native/account.py`) are left unread, so that its
socket fills and its guest waits until the budget is refilled. A flood that is alone goes on.
"""

from __future__ import annotations

import threading
import time

from ..native.account import Account

#: Frames are left unread no longer than this without another look at the account (seconds).
LONGEST_S = 0.05


class Turn:
    """The turns of one cell. Thread-safe: who holds its channel charges it, and threads of host functions do."""

    __slots__ = ("_lock", "_put_off_until", "account", "spent_s")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._put_off_until = 0.0
        self.account = Account()
        #: processor time in all
        self.spent_s = 0.0

    def used(self, processor_s: float) -> None:
        """Charge it for processor time; past its budget, its next turn is put off."""
        with self._lock:
            self.spent_s += processor_s
        self.account.spend(processor_s)

    def put_off(self, until: float) -> None:
        """Put off its next turn until then (monotonic): serving it failed."""
        self._put_off_until = max(self._put_off_until, until)

    def left_s(self) -> float:
        """Return how long its next turn is put off; the account may say so again then."""
        left = self.account.wait_s()
        if self._put_off_until:
            left = max(left, self._put_off_until - time.monotonic())
        return min(left, LONGEST_S)

    def rest_s(self) -> float:
        """Return the same, and count it: the guest is kept waiting for so long."""
        left = self.left_s()
        if left > 0:
            self.account.held(left)
        return left
