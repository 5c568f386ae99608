"""Forking a cell: an init of its own, process 1 of its pid namespace, and the guest below it.

Sources: clone(2) (CLONE_VM, CLONE_PIDFD), pid_namespaces(7), prctl(2) (PR_SET_CHILD_SUBREAPER). Minimum kernel: 5.9
(CLOSE_RANGE_UNSHARE).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import _native
from .result import check

_ffi, _lib = _native.ffi, _native.lib


@dataclass(frozen=True)
class Cell:
    """A cell as its maker knows it. The init is the maker's child; when it ends, so does all that is below it."""

    init_pid: int
    init_pidfd: int
    guest_pid: int
    slot: Any

    def ended(self) -> tuple[int | None, int]:
        """Return (the guest's wait status, bytes of its largest process), once, after the init is reaped.

        None: the init was killed before it saw the guest's end.
        """
        end = _ffi.new("struct cell_init_end *")
        _lib.cell_init_forget(self.slot, end)
        return (None if end.status < 0 else int(end.status)), int(end.max_rss_kb) << 10


def fork(flags: int) -> Cell | None:
    """Fork a cell into new namespaces; None in its guest, which is a copy of this process.

    `flags` are CLONE_NEW* bits. With CLONE_NEWPID the kernel ends all processes of the cell with its init; without it
    the init ends them itself once the guest has ended. Call it from a single-threaded process only, with SIGCHLD not
    ignored. Raises OSError.
    """
    made = _ffi.new("struct cell_init_made *")
    result = _lib.cell_init_fork(flags, made)
    if result == 0:
        return None
    if result < 0:  # what would say so is made here alone: in a cell each page that is written is copied
        check(result, "fork a cell", f"flags {flags:#x}")
    return Cell(made.init_pid, made.init_pidfd, made.guest_pid, made.slot)
