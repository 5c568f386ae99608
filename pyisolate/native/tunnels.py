"""Tunnels that a thread in C carries: two sockets each, bytes both ways, counted and not read."""

from __future__ import annotations

import os

from ._native import ffi, lib

SENT, RECEIVED = lib.TUNNELS_SENT, lib.TUNNELS_RECEIVED
#: How a tunnel ended, besides -errno.
DONE, IDLE, OVER_SENT, OVER_RECEIVED = (
    lib.TUNNELS_DONE,
    lib.TUNNELS_IDLE,
    lib.TUNNELS_OVER_SENT,
    lib.TUNNELS_OVER_RECEIVED,
)
_UNBOUNDED = (1 << 64) - 1


class ByteMeter:
    """Bytes either way of one sandbox, counted by Python and tunnels alike, and what its tunnels took. Thread-safe."""

    def __init__(self) -> None:
        self.counts = ffi.new("struct tunnels_meter *")
        self.limit(None, None)

    def limit(self, sent: int | None, received: int | None) -> None:
        """Bound what may go either way, with all that went before."""
        self.counts.most[SENT] = _UNBOUNDED if sent is None else sent
        self.counts.most[RECEIVED] = _UNBOUNDED if received is None else received

    def count(self, way: int, count: int) -> bool:
        """Count bytes that are about to go on; False where that is too much."""
        return bool(lib.tunnels_count(self.counts, way, count))

    def carried(self, way: int) -> int:
        """Return how many bytes went on."""
        return int(self.counts.carried[way])

    def spent_s(self) -> float:
        """Return how much processor time its tunnels took."""
        return float(self.counts.spent_ns) / 1e9


class Tunnels:
    """All tunnels of a process, and their thread. For one thread of Python at a time."""

    def __init__(self, idle_s: int) -> None:
        """`idle_s`: a tunnel without a byte for so long ends. Raises OSError."""
        self._all = lib.tunnels_start(idle_s)
        if self._all == ffi.NULL:
            raise OSError(ffi.errno, os.strerror(ffi.errno), "tunnels")
        self._last = 0
        #: the meter is kept for as long as the thread counts with it
        self._open: dict[int, tuple[object, ByteMeter]] = {}
        self._number, self._result = ffi.new("uint64_t *"), ffi.new("int *")

    def fileno(self) -> int:
        """Return a descriptor that is readable once a tunnel has ended."""
        return int(lib.tunnels_ended_fd(self._all))

    def add(self, guest: int, host: int, meter: ByteMeter) -> int:
        """Carry between two sockets and return the tunnel's number. Its end closes them. Raises OSError."""
        self._last += 1
        tunnel = lib.tunnels_add(self._all, self._last, guest, host, meter.counts)
        if tunnel == ffi.NULL:
            raise OSError(ffi.errno, os.strerror(ffi.errno), "tunnel")
        self._open[self._last] = (tunnel, meter)
        return self._last

    def remove(self, number: int) -> None:
        """End a tunnel, if it has not ended by itself."""
        if (known := self._open.pop(number, None)) is not None:
            lib.tunnels_remove(self._all, known[0])

    def ended(self) -> list[tuple[int, int]]:
        """Return the numbers of tunnels that have ended by themselves, and how."""
        found = []
        while lib.tunnels_next_ended(self._all, self._number, self._result):
            number = int(self._number[0])
            self._open.pop(number, None)
            found.append((number, int(self._result[0])))
        return found

    def close(self) -> None:
        """End all of them, and the thread. Nothing else may be called then."""
        lib.tunnels_stop(self._all)
        self._open.clear()
