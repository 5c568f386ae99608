"""Directories that tell, each by one look, that no name in them has come to mean something else.

A name is made, removed or given to another file in its directory, and that sets the directory's time of change (ctime),
which no call can set back. So a directory on the way to many places speaks for all of them. Two things are needed: a
file system that keeps its times itself, and a directory at rest: within the step of the clock a second change could
leave the time as it is (git's "racy" files), so one that changed a moment ago speaks for nothing yet. Where they can
be, the directories are watched (native/watch.py), and none of them is looked at until a name in one has changed.

In sysfs no call makes, moves or removes a name. The kernel does, without an event, when a device comes or goes; no
tenant says what it calls by a name (root may rename an interface), and what it removed is dead to those who have it. So
places there are looked at again after a while; until then a cell may miss what the kernel has just made. In control
groups, whose directories users make, each place is looked at each time.
"""

from __future__ import annotations

import errno
import itertools
import math
import os
import struct
import time
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from ..native.places import Kind, Question
from ..native.watch import Watch

#: How long a directory must have been at rest (seconds): the coarsest clock of these file systems, ext4 with small
#: inodes, has steps of one second.
AT_REST_S = 2.5
#: Local file systems whose every change of a directory this kernel makes, and times (mountinfo(5), field 9).
_OWN_TIMES = frozenset({b"btrfs", b"devtmpfs", b"erofs", b"ext2", b"ext3", b"ext4", b"f2fs", b"overlay", b"ramfs",
                        b"squashfs", b"tmpfs", b"xfs"})  # fmt: skip
#: The file system whose names only the kernel changes, and how long a look at them holds (seconds).
_KERNELS = b"sysfs"
KERNELS_S = 1.0
_LINKS_MAX = 40  # MAXSYMLINKS, linux/namei.h
#: error, device, inode, mount, time of change, size (native/places.py)
_LOOK = struct.Struct("=6Q")


class Watched(msgspec.Struct):
    """A question that is shorter than the one it stands for, and its answer while nothing has changed."""

    question: Question
    answer: bytes
    #: places that no directory speaks for yet, and may when it is at rest
    restless: bool
    #: what is left of question and answer while the count of `watch` is the same
    watch: Watch
    count: int
    unwatched: Question
    unwatched_answer: bytes
    #: what is left of them at `kernels_at` (CLOCK_MONOTONIC), and then once in `KERNELS_S`
    kernels: Question
    kernels_answer: bytes
    kernels_at: float

    def unwatched_holds(self) -> bool:
        """True while what no watched directory speaks for is as it was: all there is to look at at the same count."""
        if self.unwatched_answer and not self.unwatched.still(self.unwatched_answer):
            return False
        if (now := time.monotonic()) >= self.kernels_at:
            if not self.kernels.still(self.kernels_answer):
                return False
            self.kernels_at = now + KERNELS_S
        return True

    def holds(self) -> bool:
        """True while each directory, and what none speaks for, is as it was."""
        if self.watch.count == self.count:
            return self.unwatched_holds()
        return self.question.still(self.answer)


def watch(paths: Iterable[tuple[str, Kind]], kinds: Mapping[int, bytes], events: Watch) -> Watched | None:
    """Return what is to be looked at instead of `paths`; None where names are changing right now.

    `kinds`: the type of the file system by the number of its mount. Compare all `paths` after it, not before.
    """
    began, began_ns = time.monotonic(), time.time_ns()
    ways = {one: tuple(_way(one[0])) for one in paths}
    directories = list(dict.fromkeys(directory for way in ways.values() for directory in way))
    looks = dict(zip(directories, _LOOK.iter_unpack(_look(directories)[1]), strict=True))
    kind_of = {path: kinds.get(look[3]) for path, look in looks.items() if not look[0]}
    timed = {path for path, kind in kind_of.items() if kind in _OWN_TIMES}
    at_rest = {path for path in timed if looks[path][4] < began_ns - int(AT_REST_S * 1e9)}
    in_kernels = {path for path, kind in kind_of.items() if kind == _KERNELS}
    alone = {one: None for one, way in ways.items() if one[1] == "c" or not at_rest.issuperset(way)}
    restless = any(one[1] != "c" and timed.issuperset(ways[one]) for one in alone)
    settled = {one for one in alone if one[1] != "c" and (at_rest | in_kernels).issuperset(ways[one])}
    speak_for = (path for one, way in ways.items() if one not in alone or one in settled for path in way)
    needed = [path for path in dict.fromkeys(speak_for) if path not in in_kernels]
    count = events.count
    unwatched = set(events.add(needed))  # before the look: what changes after it has an event
    question, answer = _look(needed, alone)
    if answer[: _LOOK.size * len(needed)] != b"".join(_LOOK.pack(*looks[path]) for path in needed):
        return None
    answers = [answer[at : at + _LOOK.size] for at in range(0, len(answer), _LOOK.size)]
    later = [one in settled and unwatched.isdisjoint(ways[one]) for one in alone]
    left = [path in unwatched for path in needed] + [not waits for waits in later]
    of_unwatched = Question(
        [*((path, "c") for path in needed if path in unwatched), *itertools.compress(alone, left[len(needed) :])]
    )
    kernels = Question(list(itertools.compress(alone, later)))
    return Watched(
        question,
        answer,
        restless,
        events,
        count,
        of_unwatched,
        b"".join(itertools.compress(answers, left)),
        kernels,
        b"".join(itertools.compress(answers[len(needed) :], later)),
        began + KERNELS_S if any(later) else math.inf,
    )


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
