"""A thread of the host that has run a function for a guest, and waits a moment for the guest's next call.

Without it each call passes through two threads: one that takes it, and one that is woken from among many to run it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from ..cell import wire

#: How long it waits for the next call of a sandbox thread (seconds).
LINGER_S = 1.0


class Attendant:
    """At most one for a guest, and only once it calls. `here` takes a call and runs it."""

    def __init__(self, here: Callable[[wire.HostCall], None], *, linger_s: float | None = None) -> None:
        self._here, self._linger_s = here, linger_s
        # of C: an exception raised in a guest cannot leave a lock of it held
        self._frames: queue.SimpleQueue[wire.HostCall | None] = queue.SimpleQueue()
        #: one where the thread waits: who takes it gives one call, and no other does
        self._places: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._serves = threading.Lock()
        self._dismissed = False

    def give(self, frame: wire.HostCall) -> bool:
        """Hand a call over; False where no thread waits for one. Never waits."""
        if not self._take_place():
            return False
        self._frames.put(frame)
        return True

    def serve(self, call: Callable[[], None]) -> None:
        """Run a call that was taken, and then those that come while there is no long pause."""
        call()
        if not self._serves.acquire(blocking=False):
            return  # another thread waits already
        try:
            while (frame := self._next()) is not None:
                self._here(frame)
        finally:
            self._serves.release()

    def dismiss(self) -> None:
        """The guest has ended: wait for no further call."""
        self._dismissed = True
        self._frames.put(None)

    def _take_place(self) -> bool:
        try:
            self._places.get_nowait()
        except queue.Empty:
            return False
        return True

    def _next(self) -> wire.HostCall | None:
        if self._dismissed:
            return None
        self._places.put(None)
        while True:
            try:
                frame = self._frames.get(timeout=LINGER_S if self._linger_s is None else self._linger_s)
            except queue.Empty:
                if self._dismissed or self._take_place():
                    return None
                # it is being given: what raises in a guest may come in between, and then none does until the end
            else:
                if frame is None:
                    self._take_place()
                return frame
