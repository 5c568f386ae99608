"""Whom cells and their zygote run as. Counts that the kernel keeps by user must not be shared with strangers."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable

from ..kernel import namespaces
from ..kernel.prepared import CellTraits

#: uid 65534 and its group, on Debian; the cells' user when the supervisor runs as root.
CELL_UID = 65534
#: Users that systemd, Debian and the `subuid` ranges leave unused (systemd's UIDS-GIDS): one is the zygote's.
UNUSED_UIDS = range(65520, 65534)


def cell_traits(
    cell_uid: int | None,
    cell_gid: int | None,
    cell_uids: range | None,
    *,
    full_telemetry: bool,
    events_per_s: int,
) -> CellTraits:
    """Return as whom cells and zygote run. Raises ValueError for root, and for a range that cannot be used."""
    root = os.geteuid() == 0
    uid = cell_uid if cell_uid is not None else (CELL_UID if root else os.getuid())
    gid = cell_gid if cell_gid is not None else (CELL_UID if root else os.getgid())
    if root and uid == 0:
        raise ValueError("cell_uid: 0: cells never run as root")
    if cell_uids is not None:
        _check_range(cell_uids, root)
    zygote_uid = _unused((uid, *(cell_uids or ()))) if root else None
    return CellTraits(
        uid=uid,
        gid=gid,
        started_by_root=root,
        full_telemetry=full_telemetry,
        kernel_events_per_s=events_per_s,
        zygote_uid=zygote_uid,
        proxy_uid=_unused((uid, zygote_uid or uid, *(cell_uids or ()))) if root else None,
        uid_range=None if cell_uids is None else (cell_uids.start, len(cell_uids)),
    )


def _check_range(uids: object, root: bool) -> None:
    if not isinstance(uids, range):
        raise TypeError(f"cell_uids: {uids!r}: must be range(first, end), not {type(uids).__name__}")
    if not root:
        raise ValueError("cell_uids: only a supervisor that runs as root can give each cell a user of its own")
    if uids.step != 1 or not uids or uids.start < 1:
        raise ValueError(f"cell_uids: {uids!r}: must be range(first, end) of users other than root")
    if not all(namespaces.maps_uid(uid) for uid in (uids.start, uids[-1])):
        raise ValueError(f"cell_uids: {uids!r}: not mapped in this user namespace")


def _unused(taken: Iterable[int]) -> int | None:
    """Return a user that nothing else is, another one in each process where possible; None where all are taken."""
    taken = set(taken)
    for turn in range(len(UNUSED_UIDS)):
        uid = UNUSED_UIDS[(os.getpid() + turn) % len(UNUSED_UIDS)]
        if uid not in taken and namespaces.maps_uid(uid) and not _has_name(uid):
            return uid
    return None


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def proxy_uid(traits: CellTraits) -> int | None:
    """Return whom the egress proxy runs as, None for the supervisor's own user: never root."""
    if not traits.started_by_root:
        return None
    return traits.uid if traits.proxy_uid is None else traits.proxy_uid
