"""Every sandbox of one supervisor: live, standing by, ending; and the control groups that cells hold."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..cell.channel import Channel
from ..limits.cgroup import CgroupLease
from ..sandbox.cell_session import CellSession
from ..sandbox.process import Sandbox
from ..sandbox.session import Session

if TYPE_CHECKING:
    from ..sandbox.thread import SandboxThread, ThreadSession

    Handle = Sandbox | SandboxThread


class Registry:
    """Sessions by id, with the handles that users hold. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        #: cells that no `spawn` has taken yet
        self._standby: dict[str, CellSession] = {}
        #: threads that no `spawn` has taken yet
        self._standby_threads: dict[str, ThreadSession] = {}
        self._live: dict[str, tuple[CellSession | ThreadSession, Handle]] = {}
        #: closed, and their cells not reaped yet: records of theirs may still come
        self._ending: dict[str, CellSession] = {}
        self._leases: dict[int, CgroupLease] = {}

    # -- sandboxes ------------------------------------------------------------------------------------------

    def add_standby(self, session: CellSession) -> None:
        """Note a cell that is confined ahead of `spawn`."""
        with self._lock:
            self._standby[session.id] = session

    def add_cell(self, session: CellSession) -> Sandbox:
        """Note a sandbox in a cell; return its handle."""
        handle = Sandbox(session)
        with self._lock:
            self._standby.pop(session.id, None)
            self._live[session.id] = session, handle
        return handle

    def add_standby_thread(self, session: ThreadSession) -> None:
        """Note a thread that is confined ahead of `spawn`."""
        with self._lock:
            self._standby_threads[session.id] = session

    def add_thread(self, session: ThreadSession) -> SandboxThread:
        """Note a sandbox on a thread; return its handle."""
        from ..sandbox.thread import SandboxThread  # loaded by what made the session

        handle = SandboxThread(session)
        with self._lock:
            self._standby_threads.pop(session.id, None)
            self._live[session.id] = session, handle
        return handle

    def handles(self) -> list[Handle]:
        """Return the handle of every sandbox that is not closed: cells first, each oldest first."""
        with self._lock:
            live = [handle for _session, handle in self._live.values()]
        return sorted(live, key=lambda handle: handle.isolation)

    def live(self) -> list[CellSession | ThreadSession]:
        """Return every sandbox that is not closed."""
        with self._lock:
            return [session for session, _handle in self._live.values()]

    def known(self) -> list[Session]:
        """Return every sandbox, also those that stand by or end."""
        with self._lock:
            return [*self.live(), *self._standby.values(), *self._standby_threads.values(), *self._ending.values()]

    def find(self, sandbox_id: str) -> CellSession | ThreadSession | None:
        """Return a sandbox by id, also one that stands by or ends; None for an unknown id."""
        with self._lock:
            if (found := self._live.get(sandbox_id)) is not None:
                return found[0]
            standby = self._standby.get(sandbox_id) or self._standby_threads.get(sandbox_id)
            return standby or self._ending.get(sandbox_id)

    def ending(self, session: CellSession) -> None:
        """A sandbox was closed, and its cell may not be reaped yet."""
        with self._lock:
            self._live.pop(session.id, None)
            self._standby.pop(session.id, None)
            self._ending[session.id] = session

    def forget(self, sandbox_id: str) -> None:
        """No more records of a sandbox can come."""
        with self._lock:
            self._live.pop(sandbox_id, None)
            self._standby.pop(sandbox_id, None)
            self._standby_threads.pop(sandbox_id, None)
            self._ending.pop(sandbox_id, None)

    def standby_threads(self) -> int:
        """Return how many threads stand by."""
        return len(self._standby_threads)

    def counts(self) -> tuple[int, int, int, int]:
        """Return how many live, stand by, end, and how many control groups are held."""
        with self._lock:
            return len(self._live), len(self._standby), len(self._ending), len(self._leases)

    # -- control groups -------------------------------------------------------------------------------------

    def keep_lease(self, channel: Channel, lease: CgroupLease) -> bool:
        """Keep the control group of a warm cell until it is reaped; False where it was reaped already."""
        with self._lock:
            if channel.released:
                return False
            self._leases[channel.pid] = lease
            return True

    def lease_of(self, pid: int) -> CgroupLease | None:
        """Return the control group of a cell, None where there is none."""
        with self._lock:
            return self._leases.get(pid)

    def reaped(self, channel: Channel) -> tuple[bool, CgroupLease | None]:
        """Take a reaped cell's control group; (False, None) where another thread was first."""
        with self._lock:
            if channel.released:
                return False, None
            channel.released = True
            return True, self._leases.pop(channel.pid, None)

    def release_leases(self) -> None:
        """Give back every control group that is still held: the pools are closed."""
        with self._lock:
            left = list(self._leases.values())
            self._leases.clear()
        for lease in left:
            lease.release()

    def abandon(self, end: Callable[[Session], None]) -> None:
        """In a forked child of the host: forget all, which is the parent's; `end` is called with each sandbox."""
        self._lock = threading.RLock()
        for session in self.known():
            end(session)
        for remembered in (self._standby, self._standby_threads, self._live, self._ending, self._leases):
            remembered.clear()
