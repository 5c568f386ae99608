"""The control groups that a zygote's next cells are to be born in, while each cell's maker waits in it.

To move a process into a group may wait for a grace period of RCU, 11 ms after a rest: it is done while no spawn waits.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .cgroup import CgroupLease


class GroupsAhead:
    """Keeps the groups of one zygote's cells, by their init, until each cell has it. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[int, CgroupLease] = {}
        #: inits of cells that are forked, and have not taken their group
        self._forked: set[int] = set()
        self._closed = False

    def put(self, init: int, lease: CgroupLease) -> None:
        """Keep a group; what is kept for other cells that are not forked is given back: their inits have ended."""
        with self._lock:
            left = {init: lease} if self._closed else {k: v for k, v in self._kept.items() if k not in self._forked}
            self._kept = {k: v for k, v in self._kept.items() if k in self._forked}
            if not self._closed:
                self._kept[init] = lease
        for one in left.values():
            one.release()

    def forked(self, init: int) -> None:
        """The cell with this init is forked: its group is kept until it, or `end`, takes it."""
        with self._lock:
            self._forked.add(init)

    def take(self, init: int) -> CgroupLease | None:
        """Return the group of the cell with this init, None where there is none. It is the caller's then."""
        with self._lock:
            return self._kept.pop(init, None)

    def put_back(self, init: int, lease: CgroupLease) -> None:
        """Keep a group that the cell with this init could not take yet; given back where that cell has ended."""
        with self._lock:
            kept = init in self._forked and not self._closed
            if kept:
                self._kept[init] = lease
        if not kept:
            lease.release()

    def end(self, init: int) -> None:
        """The cell with this init is placed, or has ended: give back what it has not taken."""
        with self._lock:
            self._forked.discard(init)
            left = self._kept.pop(init, None)
        if left is not None:
            left.release()

    def close(self) -> None:
        """Give back what is kept, and what is put from now on: the zygote ends."""
        with self._lock:
            self._closed = True
            left, self._kept = list(self._kept.values()), {}
        for one in left:
            one.release()
