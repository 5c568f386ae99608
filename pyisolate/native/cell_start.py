"""A cell, from its fork to its report or to the answer of a hand-out that is foreseen, in one C call.

Sources: getrandom(2), seccomp(2), unix(7) (SCM_RIGHTS), landlock(7), chroot(2). Minimum kernel: 5.13 (Landlock).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any, NamedTuple

from . import _native
from .cell_confine import Confinement, limits_of
from .result import check
from .seccomp import LISTENER_FLAGS, User, user_of

_ffi, _lib = _native.ffi, _native.lib

#: No longer hand-out can be foreseen: a cell keeps so much room for it.
MOST_BYTES = int(_lib.CELL_START_BYTES)


class Came(enum.IntEnum):
    """How far a cell came by itself. From `REPORTED` on it has reported; after `DONE` nothing is left to do."""

    BROKEN = _lib.CELL_START_BROKEN
    CONFINE = _lib.CELL_START_CONFINE
    FILTER = _lib.CELL_START_FILTER
    REPORTED = _lib.CELL_START_REPORTED
    OTHER = _lib.CELL_START_OTHER
    GONE = _lib.CELL_START_GONE
    HAND_OUT = _lib.CELL_START_HAND_OUT
    DONE = _lib.CELL_START_DONE


#: What each number of `CellStart.check` says failed.
_OPERATIONS = {
    int(_lib.CELL_START_ROOT): "chroot",
    int(_lib.CELL_START_DIRECTORY): "chdir",
    int(_lib.CELL_START_LIMITS): "setrlimit",
    int(_lib.CELL_START_CAPABILITIES): "drop capabilities",
    int(_lib.CELL_START_LANDLOCK): "landlock_restrict_self",
}
ROOT, DIRECTORY, LIMITS, CAPABILITIES, LANDLOCK = _OPERATIONS
#: How many steps a hand-out has.
STEPS = int(_lib.CELL_START_STEPS)


class Frames(NamedTuple):
    """What a cell sends and awaits, encoded: its report, the foreseen hand-out (or nothing), and the answer to that."""

    warm: bytes
    init: bytes
    ready: bytes


class ZygoteFacts(NamedTuple):
    """What a zygote knows of its cells: a guest's own process id (0: not known), /dev/null, a number for the channel.

    Both descriptors are open in the zygote; a cell puts its channel in the place of the second.
    """

    pid: int
    null: int
    channel: int


class HandOut(NamedTuple):
    """What the foreseen hand-out says: the names of its descriptors, (resource, soft, hard), where and as what."""

    descriptors: Sequence[str]
    rlimits: Sequence[tuple[int, int, int]]
    directory: str
    name: str


class CellStart:
    """All of it, made ready in a zygote for each of its cells."""

    def __init__(
        self,
        confinement: Confinement,
        given: ZygoteFacts,
        program: bytes,
        user: User | None,
        frames: Frames,
        hand_out: HandOut,
    ) -> None:
        self._confinement = confinement
        names = list(hand_out.descriptors)
        #: what the order points to
        self._kept: dict[str, Any] = {
            "program": _ffi.from_buffer(program),
            "user": _ffi.NULL if user is None else user_of(user),
            "limits": limits_of(hand_out.rlimits),
            "directory": _ffi.new("char[]", hand_out.directory.encode("utf-8", "surrogateescape")),
            "name": _ffi.new("char[]", hand_out.name.encode()),
            **{name: _ffi.from_buffer(frame) for name, frame in frames._asdict().items()},
        }
        self._order = _ffi.new(
            "struct cell_start_order *",
            {
                **self._kept,
                **{f"{name}_bytes": len(frame) for name, frame in frames._asdict().items()},
                "confine": confinement.order,
                **given._asdict(),
                "program_bytes": len(program),
                "flags": LISTENER_FLAGS,
                "descriptors": len(names),
                "root_view": names.index("root view") if "root view" in names else -1,
                "landlock": names.index("landlock") if "landlock" in names else -1,
                "limit_count": len(hand_out.rlimits),
            },
        )
        self._outcome = _ffi.new("struct cell_start_outcome *")
        self._entropy = _ffi.buffer(self._outcome.entropy)

    @property
    def pointers(self) -> tuple[Any, Any]:
        """The order and the outcome, for `zygote_loop`, which has each fresh cell go as far as all is as foreseen."""
        return self._order, self._outcome

    @property
    def entropy(self) -> bytes:
        """32 random bytes that this cell alone has, drawn before its filter was in force."""
        return bytes(self._entropy)

    @property
    def received(self) -> tuple[bytes, list[int]]:
        """What came in the place of the foreseen hand-out, with its descriptors."""
        o = self._outcome
        return bytes(_ffi.buffer(o.data, o.received)), [int(o.descriptors[i]) for i in range(o.count)]

    def share(self) -> None:
        """After `Came.CONFINE`: let the steps of `Confinement` be asked."""
        self._confinement.take(self._outcome.confined)

    def check(self, step: int) -> None:
        """Raise what a step of the hand-out (of the numbers in this module) met, if it failed."""
        check(self._outcome.handed_out[step], _OPERATIONS[step])

    def check_begun(self) -> None:
        """After `Came.BROKEN` or `Came.FILTER`: raise what it met."""
        check(self._outcome.error, "confine a fresh cell")
