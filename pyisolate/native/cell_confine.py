"""What every cell does to itself before its policy is known, in one C call.

In a cell each page that is written is copied first, and an interpreter writes where it reads: the same steps in Python
took 90 pages, 0.3 ms. Sources: user_namespaces(7), close_range(2), prctl(2), getrlimit(2), capabilities(7). Minimum
kernel: 5.9 (close_range).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from . import _native
from .result import check

_ffi, _lib = _native.ffi, _native.lib

#: What each number of `cell_confine_run` says failed.
_OPERATIONS = {
    int(_lib.CELL_CONFINE_USER): "map the cell's user",
    int(_lib.CELL_CONFINE_SESSION): "setsid",
    int(_lib.CELL_CONFINE_DESCRIPTORS): "close_range",
    int(_lib.CELL_CONFINE_HOST_NAME): "sethostname",
    int(_lib.CELL_CONFINE_NO_NEW_PRIVS): "prctl PR_SET_NO_NEW_PRIVS",
    int(_lib.CELL_CONFINE_DUMPABLE): "prctl PR_SET_DUMPABLE",
    int(_lib.CELL_CONFINE_LIMITS): "setrlimit",
    int(_lib.CELL_CONFINE_CAPABILITIES): "drop capabilities",
    int(_lib.CELL_CONFINE_DEATH_SIGNAL): "prctl PR_SET_PDEATHSIG",
}


def limits_of(rlimits: Sequence[tuple[int, int, int]]) -> Any:
    """Return (resource, soft, hard) as C has them; -1, as Python shows RLIM_INFINITY, is endless."""
    endless = (1 << 64) - 1
    table = [(which, soft & endless, hard & endless) for which, soft, hard in rlimits]
    return _ffi.new("struct cell_confine_limit[]", table)


class Confinement:
    """The steps, made ready in the zygote for each of its cells."""

    def __init__(
        self,
        namespaces: int,
        user: tuple[int, int],
        rlimits: Sequence[tuple[int, int, int]],
        keep: Iterable[int],
        *,
        dumpable: bool,
    ) -> None:
        self._limits = limits_of(rlimits)
        #: for `CellStart`, which takes the same steps
        self.order = _ffi.new(
            "struct cell_confine_order *",
            {
                "namespaces": namespaces,
                "uid": user[0],
                "gid": user[1],
                "dumpable": dumpable,
                "keep": sum(1 << capability for capability in keep),
                "limits": self._limits,
                "limit_count": len(rlimits),
            },
        )
        self._results = _ffi.new("int[]", int(_lib.CELL_CONFINE_STEPS))

    def run(self, channel: int, mapped: int | None) -> bool:
        """Take every step; True where none failed. Descriptors 0 to 2 and `channel` stay open.

        `mapped` is a pipe to which the zygote writes once it has mapped the cell's user; None: it maps itself.
        """
        failed = _lib.cell_confine_run(self.order, channel, -1 if mapped is None else mapped, self._results)
        return int(failed) == 0

    def take(self, results: Any) -> None:
        """Let `check` speak of steps that C has taken elsewhere, and of what they met."""
        self._results = results

    def check(self, step: int) -> None:
        """Raise what a step (of the numbers in this module) met in `run`, if it failed."""
        check(self._results[step], _OPERATIONS[step])


USER, SESSION, DESCRIPTORS, HOST_NAME, NO_NEW_PRIVS, DUMPABLE, LIMITS, CAPABILITIES, DEATH_SIGNAL = _OPERATIONS
