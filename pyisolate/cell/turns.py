"""Fair turns for cells: what a guest sends may cost the host far more than the guest, under one interpreter's lock.

The frames of a cell that had its slice of the host's time are left unread, so that its socket fills and its guest
waits: for as long as it takes to give each of the others that are at work the same. A flood that is alone goes on.
"""

from __future__ import annotations

import threading
import time

#: What the frames of a cell take of the host before others have a turn (seconds): some ten small frames.
SLICE_S = 0.001
#: What they may take beside that, at once: some fifty refusals of an honest guest.
BURST_S = 0.005
#: Frames that take a smaller part of a thread's time than this are never left unread.
FREE_SHARE = 0.05
#: Who had a turn within this time is at work (seconds).
AT_WORK_S = 0.1
#: Frames are left unread no longer (seconds): the end of a request comes after the others.
LONGEST_S = 0.05


class Turns:
    """The accounts of all cells that share an interpreter's lock."""

    def __init__(self) -> None:
        self._joined: dict[Turn, None] = {}

    def join(self) -> Turn:
        """Open an account."""
        turn = Turn(self)
        self._joined[turn] = None
        return turn

    def leave(self, turn: Turn) -> None:
        """Close one."""
        self._joined.pop(turn, None)

    def at_work(self, now: float) -> int:
        """Return how many cells had a turn of late."""
        return sum(one.last > now - AT_WORK_S for one in list(self._joined))


class Turn:
    """The account of one cell. Thread-safe: who holds its channel charges it, and threads of host functions do."""

    __slots__ = ("_lock", "_owed_s", "_turns", "last", "resume_at", "spent_s")

    def __init__(self, turns: Turns) -> None:
        self._turns, self._lock = turns, threading.Lock()
        self._owed_s = -BURST_S
        #: when it last had the host's time, and from when on it may have more (monotonic)
        self.last = self.resume_at = 0.0
        #: processor time in all
        self.spent_s = 0.0

    def used(self, processor_s: float, now: float) -> None:
        """Charge it for processor time that was used until `now`; past a slice, put off its next turn."""
        with self._lock:
            rested = max(0.0, now - self.last)  # another thread may have been first
            self._owed_s = max(-BURST_S, self._owed_s - rested * FREE_SHARE) + processor_s
            self.last = max(self.last, now)
            self.spent_s += processor_s
            if self._owed_s >= SLICE_S:
                others = self._turns.at_work(now) - 1
                self.resume_at = now + min(self._owed_s * others, LONGEST_S)
                self._owed_s = 0.0

    def put_off(self, until: float) -> None:
        """Put off its next turn until then (monotonic): serving it failed."""
        self.resume_at = max(self.resume_at, until)

    def left_s(self) -> float:
        """Return how long its next turn is put off."""
        return max(0.0, self.resume_at - time.monotonic()) if self.resume_at else 0.0
