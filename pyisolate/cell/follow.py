"""How a guest follows a reload: the kernel's side has changed by then, and its broker is to judge by the same policy.

A guest that is idle is not woken: the table comes with the next request. What runs there before (a thread, a handler
of a signal) finds the announcement in the asked page before it refuses by the old table, and asks for the new one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from os import getpid  # the function itself: a guest may put another in its place

from ..native import audit
from . import wire
from .inbox import Inbox

#: A host that is very busy sends a table within this time (seconds); then the old one has to do.
_COMES_WITHIN_S = 2.0


class Follower:
    """Puts tables in force in the order in which they come. Thread-safe."""

    def __init__(
        self,
        inbox: Inbox,
        send: Callable[[wire.GuestFrame], None],
        apply: Callable[[wire.Reload, list[int]], None],
    ) -> None:
        self._inbox, self._send, self._apply = inbox, send, apply
        self._lock = threading.RLock()
        self._applied = self._serial = 0
        #: whom it serves, from `open` on: a forked child of the guest must not read its parent's channel
        self._pid = 0

    def open(self, pid: int) -> None:
        """In a fresh cell, or ahead of it: process `pid` is the guest."""
        self._pid = pid

    def apply_waiting(self) -> None:
        """Put in force what has come."""
        with self._lock:
            while self._inbox.reloads:
                frame, received = self._inbox.reloads.popleft()
                self._apply(frame, received)
                self._applied += 1
                self._serial = max(self._serial, frame.serial)

    def catch_up(self) -> bool:
        """Put in force what has come or was announced; True when there was something."""
        if getpid() != self._pid:
            return False
        before = self._applied
        self._inbox.sort_waiting()
        self.apply_waiting()
        if (announced := audit.announced()) > self._serial:
            self._send(wire.Wanted())
            self._inbox.wait(lambda: self._inbox.reloads or self._serial >= announced, _COMES_WITHIN_S)
            self.apply_waiting()
        return self._applied != before
