"""A thread of the host that has run a function for a sandbox thread, and waits a moment for the guest's next call.

Without it each call passes through two threads: one that is not confined and takes it, and one that runs it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from ..cell import wire

#: How long it waits for the next call (seconds).
LINGER_S = 1.0


class Attendant:
    """At most one for a guest, and only once it calls. `here` takes a call and runs it; `elsewhere` never waits.

    `tell` has a call run on a thread that is not confined, and returns at once.
    """

    def __init__(
        self,
        here: Callable[[wire.HostCall], None],
        elsewhere: Callable[[wire.HostCall], None],
        tell: Callable[[Callable[[], object]], None],
    ) -> None:
        self._here, self._elsewhere, self._tell = here, elsewhere, tell
        # of C: an exception raised in a guest cannot leave a lock of it held
        self._frames: queue.SimpleQueue[wire.HostCall | None] = queue.SimpleQueue()
        self._place = threading.Lock()
        self._waits = self._dismissed = False

    def waits(self) -> bool:
        """True while a thread waits for the guest's next call."""
        return self._waits

    def give(self, frame: wire.HostCall) -> bool:
        """Hand a call over, on the guest's thread; False where no thread waits for one."""
        if not self.waits():
            return False
        self._frames.put(frame)
        if not self.waits():  # it has this call, or has stopped waiting just before
            self._tell(self._clear)
        return True

    def serve(self, call: Callable[[], None]) -> None:
        """Run a call that was taken, and then those that come while there is no long pause."""
        call()
        if not self._place.acquire(blocking=False):
            return  # another thread waits already
        try:
            while (frame := self._next()) is not None:
                self._here(frame)
        finally:
            self._place.release()
        self._clear()

    def dismiss(self) -> None:
        """The guest has ended: wait for no further call."""
        self._dismissed = True
        self._frames.put(None)

    def _next(self) -> wire.HostCall | None:
        self._waits = not self._dismissed
        try:
            return self._frames.get(timeout=LINGER_S) if self._waits else None
        except queue.Empty:
            return None
        finally:
            self._waits = False

    def _clear(self) -> None:
        """Pass on the calls that no thread waits for any more."""
        while True:
            try:
                frame = self._frames.get_nowait()
            except queue.Empty:
                return
            if frame is not None:
                self._elsewhere(frame)
