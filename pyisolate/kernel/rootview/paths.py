"""File rules at the real paths they reach: the common ground of Landlock and the root view.

A policy names paths; the kernel knows inodes and mounts. `Places.of(policy)` follows symbolic links once, merges rules
that meet at one place, and says of each place what is in force there and what was in force just above it.
Runs in the supervisor (Landlock) and in the root view builder; reads the file system, changes nothing.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol, cast

from ...policy.compiled import GATED, CompiledPolicy, FsRight, FsRule
from ...policy.workspace import same_line

#: What a writable mount is needed for; changing metadata takes WRITE as well (policy/compiled.py).
WRITING = FsRight.WRITE | FsRight.CREATE | FsRight.DELETE
#: What a mount that may map code is needed for.
RUNNING = FsRight.EXEC | FsRight.MAP_EXEC
#: What makes a place visible with all that lies below. METADATA does so too, except beside LIST (see `shown`).
CONTENT = FsRight.READ | WRITING | FsRight.EXEC

_LINKS_MAX = 40  # MAXSYMLINKS, linux/namei.h


class Looks(Protocol):
    """How names are looked at: `os`, or `native.looks` for who must not wait for a file system's server."""

    def lstat(self, path: str, /) -> os.stat_result:
        """As `os.lstat`."""

    def readlink(self, path: str, /) -> str:
        """As `os.readlink`."""


_OS = cast("Looks", os)


@dataclass
class Place:
    """One real path with the rights decided there. `above` holds what the nearest place above has in force."""

    path: str
    is_directory: bool
    allow: int = 0
    deny: int = 0
    in_force: int = 0
    above: int = 0
    rules: list[FsRule] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Return the policy's rules at this place, as a policy file would state them; paths of implied ones."""
        return " + ".join(dict.fromkeys(rule.text or rule.path for rule in self.rules))

    @property
    def stated(self) -> bool:
        """True where the policy itself states a rule here; False for the edge of an implied grant."""
        return any(rule.text for rule in self.rules)

    @property
    def gated(self) -> bool:
        """True of a program that the host is asked about before it runs."""
        return any(rule.origin == GATED for rule in self.rules)

    @property
    def lost(self) -> int:
        """Return the rights that hold above but not here."""
        return self.above & ~self.in_force & ~FsRight.LIST


def shown(rights: int) -> bool:
    """Tell whether rights make a place visible with its contents. LIST alone shows a directory's own names only."""
    return bool(rights & CONTENT) or rights & (FsRight.METADATA | FsRight.LIST) == FsRight.METADATA


@dataclass
class Places:
    """All places of a policy, outermost first, with what was met on the way."""

    places: list[Place]
    #: symbolic links on the way to places: path of the link -> its text
    links: dict[str, str]
    #: rules whose path is not there (or not reachable), with the reason
    missing: list[tuple[FsRule, str]]
    looks: Looks = _OS

    @classmethod
    def of(cls, policy: CompiledPolicy, looks: Looks = _OS) -> Places:
        """Resolve the file rules of a policy on this machine, now."""
        found: dict[str, Place] = {}
        links: dict[str, str] = {}
        missing: list[tuple[FsRule, str]] = []
        for rule in policy.fs:
            if rule.origin == "workspace":
                continue  # it is in no sandbox but its own, and on the host not at all
            try:
                real, is_directory = _resolve(rule.path, links, looks)
            except OSError as error:
                missing.append((rule, os.strerror(error.errno or 0)))
                continue
            place = found.setdefault(real, Place(real, is_directory))
            place.allow |= rule.allow
            place.deny |= rule.deny
            place.rules.append(rule)
        places = [found[path] for path in sorted(found, key=lambda path: path.rstrip("/").split("/"))]
        for place in places:
            place.above = _above(place.path, found)
            place.in_force = (place.above | place.allow) & ~place.deny
        return cls(places, links, missing, looks)

    def __iter__(self) -> Iterator[Place]:
        return iter(self.places)

    def above(self, path: str) -> int:
        """Return what is in force where `path` would be, links followed as far as they exist."""
        real = os.path.realpath(path)
        found = {place.path: place for place in self.places}
        return found[real].in_force if real in found else _above(real, found)

    def shown_links(self) -> dict[str, str]:
        """Return what a root view has of links beside places: those on the way to one, and the root's own, with texts.

        The root's own (/lib -> usr/lib) are those that lead to a visible place, above or below one.
        """
        links = dict(self.links)
        visible = [place.path for place in self.places if shown(place.in_force)]
        for entry in os.scandir("/"):
            if entry.is_symlink():
                with contextlib.suppress(OSError):
                    real, _ = _resolve(entry.path, {}, self.looks)
                    if any(same_line(real, path) for path in visible):
                        links.setdefault(entry.path, self.looks.readlink(entry.path))
        return links

    def note(self, rule: FsRule, why: str) -> str:
        """Say that a rule has no place here."""
        return f"{rule.text or 'rule'}: {rule.path} is left out ({why})"


def _above(path: str, found: dict[str, Place]) -> int:
    """Return what is in force at the nearest place above `path`; outer places come first, so it is known already."""
    while path != "/":
        path = path[: path.rfind("/")] or "/"
        if path in found:
            return found[path].in_force & ~FsRight.LIST
    return 0


def _resolve(path: str, links: dict[str, str], looks: Looks) -> tuple[str, bool]:
    """Return the real path and whether it is a directory; note each symbolic link met. Raises OSError."""
    pending = [part for part in reversed(path.split("/")) if part]
    real, mode, followed = "", stat.S_IFDIR, 0
    while pending:
        part = pending.pop()
        if part == ".":
            continue
        if part == "..":
            real, mode = real[: real.rfind("/")] if real else "", stat.S_IFDIR
            continue
        here = f"{real}/{part}"
        mode = looks.lstat(here).st_mode
        if not stat.S_ISLNK(mode):
            real = here
            continue
        followed += 1
        if followed > _LINKS_MAX:
            raise OSError(40, "too many symbolic links")  # ELOOP
        target = looks.readlink(here)
        links[here] = target
        if target.startswith("/"):
            real = ""
        mode = stat.S_IFDIR
        pending += [step for step in reversed(target.split("/")) if step]
    return real or "/", stat.S_ISDIR(mode)
