"""Empty network namespaces that a zygote's cells use one after another.

Sources: network_namespaces(7), user_namespaces(7), setns(2). Minimum kernel: 5.0 (/proc/net after setns).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from . import _native
from .process import CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN, CLONE_NEWNET, CLONE_NEWPID, CLONE_NEWUSER
from .result import check

_lib = _native.lib

_NEEDED = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET


class Cells(NamedTuple):
    """What a zygote's cells are: user and group to themselves; (first, how many) of the users they are outside."""

    flags: int
    uid: int
    gid: int
    outside: tuple[int, int]
    maps: bool


def begin(cells: Cells, zygote_uid: int) -> bool:
    """Let cells have the namespaces of those that have ended, where this system lets the zygote do so.

    This process goes into a user namespace of its own, where only the users of its cells and itself exist, and into a
    network namespace of its own. False: it stays as it was, and each cell makes a network namespace. Call it from a
    single-threaded process. Raises OSError where the process could not be moved after a child could: it must end.
    """
    if cells.flags & _NEEDED != _NEEDED:
        return False
    keep = sum(1 << capability for capability in _kept(maps=cells.maps))
    uids = _map(_ranges(zygote_uid, cells)) if cells.maps else _map([(zygote_uid, 1)])
    gids = _map([(cells.gid, 1)])
    result = _lib.networks_begin(cells.flags, uids, gids, keep, cells.maps, cells.uid, cells.gid)
    return check(result, "move the zygote into namespaces of its own") == 0


def _kept(*, maps: bool) -> tuple[int, ...]:
    return (CAP_SYS_ADMIN, CAP_SETUID, CAP_SETGID) if maps else (CAP_SYS_ADMIN,)


def _ranges(zygote_uid: int, cells: Cells) -> Iterable[tuple[int, int]]:
    first, count = cells.outside
    if count:
        yield first, count
    for uid in sorted({zygote_uid, cells.uid}):
        if not first <= uid < first + count:
            yield uid, 1


def _map(ranges: Iterable[tuple[int, int]]) -> bytes:
    return "".join(f"{first} {first} {count}\n" for first, count in ranges).encode()
