"""Where Landlock would grant more than the table: it adds up every grant on the way, and a denial between is not seen.

`{lock: read}, {lock/priv: deny read}, {lock/priv/s.txt: allow write}`: the root view covers `priv` and shows `s.txt`,
writable; Landlock finds the rule of `lock` above it, and would let it be read. And what a cover alone keeps out shows
again when the host puts another file in its place by rename, which takes the mount away: a new inode must have no rule.
So such rights of `lock` are granted by its members, around `priv`.
"""

from __future__ import annotations

from typing import NamedTuple

from ..policy.compiled import FsRight
from .rootview.paths import RUNNING, WRITING, Place, Places, shown

#: What Landlock knows (METADATA and MAP_EXEC it does not).
_KNOWN = FsRight.READ | WRITING | FsRight.EXEC


class KeptOut(NamedTuple):
    """Rights that `grant` must not bring to `edge` and below. `why` says what cannot be done about it, if so."""

    grant: Place
    edge: Place
    rights: int
    why: str = ""


def kept_out(places: Places) -> list[KeptOut]:
    """Return what a ruleset for a root view must hold back."""
    found: list[KeptOut] = []
    by_path = {place.path: place for place in places}
    for place in places:
        above = _above(place.path, by_path)
        for grant in above:
            gained = grant.in_force & ~grant.above & _KNOWN
            excess = gained & ~place.in_force
            if shown(place.in_force):
                excess &= ~_taken_by_mount(place)
                if excess:
                    found.append(_visible(place, grant, above, excess))
            elif place.stated and excess & place.deny and not grant.in_force & FsRight.CREATE:
                found.append(KeptOut(grant, place, excess & FsRight.READ))
    return [one for one in found if one.rights]


def _visible(place: Place, grant: Place, above: list[Place], excess: int) -> KeptOut:
    """Hold rights back from a place that the view shows, where that is possible."""
    edge = next((one for one in above if _below(one.path, grant.path) and excess & ~one.in_force), place)
    names = ", ".join(right.name.lower() for right in FsRight(excess) if right.name)
    why = ""
    if place.is_directory and excess & FsRight.READ:
        why = "names below a listed directory cannot be hidden"
    elif grant.in_force & FsRight.CREATE:
        why = "files that the guest makes there must keep it"
    if why:
        text = place.text or place.path
        why = f"{text}: {names} at {place.path} comes with {grant.text or grant.path} to Landlock: {why}"
    return KeptOut(grant, edge, excess, why)


def _taken_by_mount(place: Place) -> int:
    """Return what the attributes of the place's mount refuse."""
    taken = FsRight(0)
    if not place.in_force & WRITING:
        taken |= WRITING
    if not place.in_force & RUNNING:
        taken |= FsRight.EXEC
    return taken


def _above(path: str, by_path: dict[str, Place]) -> list[Place]:
    """Return the places above a path, outermost first."""
    found = []
    while path != "/":
        path = path[: path.rfind("/")] or "/"
        if path in by_path:
            found.append(by_path[path])
    return found[::-1]


def _below(path: str, other: str) -> bool:
    return path != other and path.startswith(other.rstrip("/") + "/")
