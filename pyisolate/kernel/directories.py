"""Directories that tell, each by one look, that no name in them has come to mean something else.

A name is made, removed or given to another file in its directory, and that sets the directory's time of change (ctime),
which no call can set back. So a directory on the way to many places speaks for all of them. Two things are needed: a
file system that keeps its times itself, and a directory at rest: within the step of the clock a second change could
leave the time as it is (git's "racy" files), so one that changed a moment ago speaks for nothing yet. Where they can
be, the directories are watched (native/watch.py), and none of them is looked at until a name in one has changed.
"""

from __future__ import annotations

import errno
import itertools
import os
import struct
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ..native.places import Kind, Question
from ..native.watch import Watch

#: How long a directory must have been at rest (seconds): the coarsest clock of these file systems, ext4 with small
#: inodes, has steps of one second.
AT_REST_S = 2.5
#: Local file systems whose every change of a directory this kernel makes, and times (mountinfo(5), field 9).
_OWN_TIMES = frozenset({b"btrfs", b"devtmpfs", b"erofs", b"ext2", b"ext3", b"ext4", b"f2fs", b"overlay", b"ramfs",
                        b"squashfs", b"tmpfs", b"xfs"})  # fmt: skip
_LINKS_MAX = 40  # MAXSYMLINKS, linux/namei.h
#: error, device, inode, mount, time of change, size (native/places.py)
_LOOK = struct.Struct("=6Q")


@dataclass(frozen=True)
class Watched:
    """A question that is shorter than the one it stands for, and its answer while nothing has changed."""

    question: Question
    answer: bytes
    #: places that no directory speaks for yet, and may when it is at rest
    restless: bool
    #: what is left of question and answer while the count of `watch` is the same
    watch: Watch
    count: int
    rest: Question
    rest_answer: bytes

    def rest_holds(self) -> bool:
        """True while what no watched directory speaks for is as it was: all there is to look at at the same count."""
        return self.rest.still(self.rest_answer)

    def holds(self) -> bool:
        """True while each directory, and what none speaks for, is as it was."""
        if self.watch.count == self.count:
            return self.rest_holds()
        return self.question.still(self.answer)


def watch(paths: Iterable[tuple[str, Kind]], kinds: Mapping[int, bytes], events: Watch) -> Watched | None:
    """Return what is to be looked at instead of `paths`; None where names are changing right now.

    `kinds`: the type of the file system by the number of its mount. Compare all `paths` after it, not before.
    """
    began_ns = time.time_ns()
    ways = {one: tuple(_way(one[0])) for one in paths}
    directories = list(dict.fromkeys(directory for way in ways.values() for directory in way))
    looks = dict(zip(directories, _LOOK.iter_unpack(_look(directories)[1]), strict=True))
    timed = {path for path, look in looks.items() if not look[0] and kinds.get(look[3]) in _OWN_TIMES}
    at_rest = {path for path in timed if looks[path][4] < began_ns - int(AT_REST_S * 1e9)}
    alone = {one: None for one, way in ways.items() if one[1] == "c" or not at_rest.issuperset(way)}
    restless = any(one[1] != "c" and timed.issuperset(ways[one]) for one in alone)
    needed = list(dict.fromkeys(path for one, way in ways.items() if one not in alone for path in way))
    count = events.count
    unwatched = set(events.add(needed))  # before the look: what changes after it has an event
    question, answer = _look(needed, alone)
    if answer[: _LOOK.size * len(needed)] != b"".join(_LOOK.pack(*looks[path]) for path in needed):
        return None
    answers = [answer[at : at + _LOOK.size] for at in range(0, len(answer), _LOOK.size)]
    left = [path in unwatched for path in needed] + [True] * len(alone)
    rest = Question([*((path, "c") for path in needed if path in unwatched), *alone])
    rest_answer = b"".join(itertools.compress(answers, left))
    return Watched(question, answer, restless, events, count, rest, rest_answer)


def _look(directories: list[str], others: Iterable[tuple[str, Kind]] = ()) -> tuple[Question, bytes]:
    question = Question([*((path, "c") for path in directories), *others])
    return question, question.answer()


def _way(path: str) -> Iterator[str]:
    """Yield each directory in which the kernel looks up a name when it follows a path, links and all, or would."""
    here, names, links = "/", path.split("/")[::-1], 0
    yield here
    while names:
        name = names.pop()
        if name in ("", "."):
            continue
        if name == "..":
            here = os.path.dirname(here)
            continue
        there = os.path.join(here, name)
        try:
            text = os.readlink(there)
        except OSError as error:
            if error.errno != errno.EINVAL:
                return  # it is not there: its directory changes when it comes
            here = there
            if names:
                yield here
            continue
        links += 1
        if links > _LINKS_MAX:
            return
        if text.startswith("/"):
            here = "/"
        names += text.split("/")[::-1]
