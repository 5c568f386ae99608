"""Whether a policy's kernel tables still mean what its paths name: they hold inodes and mounts, a policy holds names.

A host moves a directory away and makes another in its place, replaces a file by rename, swaps a link, mounts something.
Sandboxes that start afterwards get tables that are made anew. Compared at each hand-out: device, inode and mount of
every place, the links on the way, the mounts below places, and the names in directories that are granted by their
members. Directories at rest speak for the names in them.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Iterator

from ..native import mount_table
from ..native.places import Kind, Question
from ..native.watch import Watch
from ..policy.compiled import CompiledPolicy, FsRight
from . import directories
from .excess import kept_out
from .rootview.paths import Places

_MOUNTS = "/proc/self/mountinfo"


class MountTable:
    """The mounts of this process's namespace, read again only after a change (poll(2) on mountinfo, 2.6.30).

    `watch` watches directories in them. `native/looks.py` has an open table of its own: the kernel says of each open
    file once that mounts changed (fs/proc_namespace.c, mounts_poll), `quiet` takes that in a call that asks of
    directories too, and the listener's thread, which looks, is to wait for no hand-out.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._file: int | None = None
        self._poll = select.poll()
        self._mounts: list[mount_table.Mounted] = []
        #: the file says once that mounts changed, and has said so to `quiet`
        self._changed = True
        self.generation = 0
        self.watch = Watch()

    def refresh(self) -> int:
        """Return a number that changes with the mounts. Without /proc it never does."""
        with self._lock:
            if self._file is None:
                try:
                    self._file = os.open(_MOUNTS, os.O_RDONLY | os.O_CLOEXEC)
                except OSError:
                    return self.generation
                self._poll.register(self._file, select.POLLERR | select.POLLPRI)
                self._changed = True
            elif any(event & (select.POLLERR | select.POLLPRI) for _, event in self._poll.poll(0)):
                self._changed = True
            if self._changed:
                self._mounts, self._changed = mount_table.read(self._file), False
                self.generation += 1
            return self.generation

    def quiet(self, generation: int, count: int) -> bool:
        """True while `refresh` would return `generation`, and `watch.count` is `count`: in one system call."""
        with self._lock:
            if self._file is None:
                return False
            names, mounts = self.watch.quiet(count, self._file)
            self._changed |= not mounts
            return names and not self._changed and self.generation == generation

    def below(self, paths: frozenset[str]) -> tuple[bytes, ...]:
        """Return the mounts at or below some paths, as mountinfo describes them."""
        with self._lock:
            return tuple(one.line for one in self._mounts if _covered(one.point, paths))

    def file_systems(self) -> dict[int, bytes]:
        """Return the type of the file system by the number of its mount."""
        with self._lock:
            return {one.number: os.fsencode(one.kind) for one in self._mounts}

    def close(self) -> None:
        """Close the file; the next `refresh` opens it again. Watch no directory any more."""
        self.watch.close()
        with self._lock:
            if self._file is not None:
                self._poll.unregister(self._file)
                os.close(self._file)
                self._file = None

    def abandon(self) -> None:
        """In a forked child of the host: close the copy without the lock, which another thread may have held."""
        self.watch.abandon()
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _covered(point: str, paths: frozenset[str]) -> bool:
    while point not in paths:
        if point in ("/", ""):
            return False
        point = point[: point.rfind("/")] or "/"
    return True


class Identity:
    """What the places of one policy were when its tables were made."""

    def __init__(self, policy: CompiledPolicy, mounts: MountTable) -> None:
        self._mounts, self._generation = mounts, mounts.refresh()
        places = Places.of(policy)
        #: granted paths that were not there: no table has them
        self.left_out = frozenset([rule.path for rule, _ in places.missing if rule.allow and rule.text])
        self._roots = frozenset(place.path for place in places if place.in_force)
        self._paths = _paths(policy, places)
        self._question = Question(self._paths)
        self._answer = self._question.answer()
        self._mounted = mounts.below(self._roots)
        #: what to look at instead, with the generation of mounts that it was true of; and when to make it anew
        self._watched: tuple[directories.Watched, int] | None = None
        self._watch_again_s = 0.0

    def holds(self) -> bool:
        """True while each place is what it was; about 1 us a place that no watched directory speaks for."""
        if (watched := self._watched) is None:
            return self._compare()
        instead, generation = watched
        quiet = self._mounts.quiet(generation, instead.count)
        if (instead.restless or not quiet) and time.monotonic() >= self._watch_again_s:
            return self._compare()
        if quiet and instead.unwatched_holds():
            return True
        return (instead.holds() and self._mounts.refresh() == generation) or self._compare()

    def _compare(self) -> bool:
        """Look at every place, and find out what can be looked at instead from now on."""
        before = self._mounts.refresh()
        watched = None
        if time.monotonic() >= self._watch_again_s:
            watched = directories.watch(self._paths, self._mounts.file_systems(), self._mounts.watch)
            self._watch_again_s = time.monotonic() + directories.AT_REST_S
        if self._question.answer() != self._answer:
            return False
        generation = self._mounts.refresh()
        if generation != self._generation:
            if self._mounts.below(self._roots) != self._mounted:
                return False
            self._generation = generation
        self._watched = (watched, before) if watched is not None and generation == before else None
        return True


def _paths(policy: CompiledPolicy, places: Places) -> list[tuple[str, Kind]]:
    found: dict[tuple[str, Kind], None] = {(rule.path, "f"): None for rule in policy.fs}
    found |= {(path, "l"): None for path in places.links}
    with contextlib.suppress(OSError):
        found |= {(entry.path, "l"): None for entry in os.scandir("/") if entry.is_symlink()}
    for one in kept_out(places):  # granted by its members: what appears in it later changes what is granted
        found |= {(path, "c"): None for path in _from(one.grant.path, one.edge.path) if not one.why}
    # what programs in a directory are linked to is granted with it
    found |= {(rule.path, "c"): None for rule in policy.fs if rule.allow & FsRight.EXEC and rule.text}
    for rule in policy.net:
        if rule.unix_path is not None and rule.unix_path.startswith("/"):
            found[os.path.dirname(rule.unix_path), "f"] = None
    if policy.net:  # the root view's own copy begins with it
        found["/etc/hosts", "c"] = None
    return list(found)


def _from(outer: str, inner: str) -> Iterator[str]:
    """Yield the directories from `outer`, itself among them, down to the one that holds `inner`."""
    while inner != outer:
        inner = inner[: inner.rfind("/")] or "/"
        yield inner
