"""What the host may spend for a sandbox, in an account that Python and the listener's thread charge (src/account.c)."""

from __future__ import annotations

from ._native import ffi, lib

#: Of a processor, for all that the host does for one sandbox while it serves others.
HOST_SHARE = 1 / lib.ACCOUNT_PARTS
#: What it may cost beside that at once (seconds).
HOST_BURST_S = lib.ACCOUNT_BURST_NS / 1e9
#: And once in a while, for what a guest is refused some thousand times; it takes ten times as long to refill.
HOST_RESERVE_S = lib.ACCOUNT_RESERVE_NS / 1e9
#: Others are served while one was within so long (seconds).
OTHERS_S = lib.ACCOUNT_OTHERS_NS / 1e9


class Account:
    """One sandbox's. Thread-safe. Times are of `time.monotonic_ns`; 0 means now."""

    __slots__ = ("handle",)

    def __init__(self) -> None:
        #: for the parts in C, which hold a reference of their own where they keep it
        self.handle = ffi.gc(lib.account_open(), lib.account_drop)

    def spend(self, processor_s: float, now_ns: int = 0) -> None:
        """Charge it for processor time."""
        lib.account_spend(self.handle, int(processor_s * 1e9), now_ns)

    def served(self, now_ns: int = 0) -> None:
        """Note that it was served: others that are past their budgets wait for it."""
        lib.account_served(self.handle, now_ns)

    def wait_s(self, now_ns: int = 0) -> float:
        """Return how long its guest is to wait: 0 within its budget, and where no other is served that is."""
        return int(lib.account_wait(self.handle, now_ns)) / 1e9

    def held(self, seconds: float) -> None:
        """Count time for which its guest was kept waiting."""
        lib.account_held(self.handle, int(seconds * 1e9))

    @property
    def held_s(self) -> float:
        """How long its guest was kept waiting, in all."""
        return int(lib.account_held_ns(self.handle)) / 1e9
