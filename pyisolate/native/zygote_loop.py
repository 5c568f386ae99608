"""A zygote's loop in C: it forks cells as they are ordered, hands them over, and reaps them.

Sources: clone(2), unix(7) (SCM_RIGHTS), wait4(2), user_namespaces(7). Minimum kernel: 5.13 (Landlock, by `cell_start`).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any, NamedTuple

from . import _native
from .cell_start import Came, CellStart
from .result import check

_ffi, _lib = _native.ffi, _native.lib


class Left(enum.IntEnum):
    """Why the loop was left."""

    GONE = _lib.ZYGOTE_LOOP_GONE
    GUEST = _lib.ZYGOTE_LOOP_GUEST
    OTHER = _lib.ZYGOTE_LOOP_OTHER
    FAILED = _lib.ZYGOTE_LOOP_FAILED


#: By number: a cell that looks there writes to two pages, and to twenty where it asks the class.
_LEFT, _CAME = {int(one): one for one in Left}, {int(one): one for one in Came}
#: What failed of a cell's making.
_OPERATIONS = {
    int(_lib.ZYGOTE_LOOP_TABLE): "remember a cell",
    int(_lib.ZYGOTE_LOOP_SOCKETS): "socketpair",
    int(_lib.ZYGOTE_LOOP_PIPES): "pipe2",
    int(_lib.ZYGOTE_LOOP_PAGE): "memfd_create",
    int(_lib.ZYGOTE_LOOP_FORK): "fork a cell",
    int(_lib.ZYGOTE_LOOP_USERS): "find a user of cell_uids that no living cell is",
    int(_lib.ZYGOTE_LOOP_MAP): "map the user of a cell",
    int(_lib.ZYGOTE_LOOP_SEND): "hand over a cell",
}


class Frame(NamedTuple):
    """A message that was encoded ahead, and where each of its numbers stands in it (big-endian)."""

    data: bytes
    places: tuple[int, ...]


class Frames(NamedTuple):
    """What the loop reads and sends; the first two by whether a cell may fork without asking the listener.

    `fork` has one number below 128: how many; `forked` the process ids (32 bits) of guest and init; `exited` the
    guest's, its status (32 bits), seconds (a double) and bytes (64 bits).
    """

    fork: tuple[Frame, Frame]
    forked: tuple[Frame, Frame]
    exited: Frame


class Users(NamedTuple):
    """A cell's user and group to itself; (first, how many) of those that cells are outside; whether its zygote maps."""

    uid: int
    gid: int
    outside: tuple[int, int]
    maps: bool


class ZygoteLoop:
    """Made once in a zygote; a policy zygote goes on with its copy (`restart`)."""

    def __init__(self, descriptors: tuple[int, int, int], flags: int, users: Users, frames: Frames) -> None:
        """`descriptors`: the control socket, the pipe that SIGCHLD writes to, the host's pidfd; `flags`: CLONE_NEW*."""
        first, count = users.outside
        self._uids = _ffi.new("unsigned int[]", list(range(first, first + count))) if count else _ffi.NULL
        self._starts: tuple[CellStart, ...] = ()
        control, wake, host = descriptors
        self._loop = _ffi.new(
            "struct zygote_loop *",
            {
                **{"control": control, "wake": wake, "host": host, "flags": flags},
                **{"maps": users.maps, "uid": users.uid, "gid": users.gid},
                **{"free_uids": self._uids, "uids": count, "free": count},
                "fork": list(map(_frame, frames.fork)),
                "forked": list(map(_frame, frames.forked)),
                "exited": _frame(frames.exited),
            },
        )

    def restart(self, control: int, wake: int) -> None:
        """In a policy zygote: it has no cell, and another socket."""
        _lib.zygote_loop_forget(self._loop)
        self._loop.control, self._loop.wake = control, wake

    def begin(self, starts: Sequence[CellStart]) -> None:
        """Let cells start so: those that ask the listener before they fork, and those that may fork."""
        self._starts = tuple(starts)
        for index, start in enumerate(starts):
            self._loop.starts[index], self._loop.outcomes[index] = start.pointers

    def run(self) -> Left:
        """Serve until there is something for Python. Raises OSError."""
        return _LEFT[check(_lib.zygote_loop_run(self._loop), "serve a zygote")]

    def fork(self, count: int, *, forks: bool) -> None:
        """Fork so many cells when it runs next."""
        self._loop.left, self._loop.forks = count, forks

    @property
    def forks(self) -> bool:
        """Whether the cell in hand may fork without asking the listener."""
        return bool(self._loop.forks)

    @property
    def came(self) -> Came:
        """After `Left.GUEST`: how far this cell came by itself."""
        return _CAME[self._loop.came]

    @property
    def order(self) -> tuple[bytes, list[int]]:
        """After `Left.OTHER`: the order, and its descriptors."""
        loop = self._loop
        return bytes(_ffi.buffer(loop.data, loop.received)), list(loop.descriptors[0 : loop.descriptor_count])

    def check_made(self) -> None:
        """After `Left.FAILED`: raise what a cell's making met."""
        check(self._loop.error, _OPERATIONS[self._loop.step])

    def signal(self, guest: int, number: int) -> None:
        """Signal the cell whose guest has this process id, if it lives."""
        _lib.zygote_loop_signal(self._loop, guest, number)

    def end_cells(self) -> None:
        """End every cell and wait for it."""
        _lib.zygote_loop_end_cells(self._loop)


def _frame(frame: Frame) -> dict[str, Any]:
    return {"bytes": frame.data, "size": len(frame.data), "at": list(frame.places)}
