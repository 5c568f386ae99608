"""Who of a supervisor's sandboxes comes first at the processor: each has its weight, and who has kept it gives way.

A group gives way by `cpu.idle` (Linux 5.15, v1 and v2): what wakes in a group beside it, or in none, has the processor
at once, where it would wait for the end of a slice otherwise, and that is seen at ticks (1 to 10 ms). Who gives way has
a weight of 3, where others have 1024: what they leave. This is no limit: nothing relies on it, and where the kernel has
no such file each group has its weight and no more.

Sources: cgroup-v2.rst (cpu.idle, cpu.weight); kernel/sched/fair.c (check_preempt_wakeup_fair, sched_group_set_idle).
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ..native.control_files import read, write
from .controls import spent_s
from .hierarchy import Layout

#: A sandbox's weight at the processor on v1, where a process of the host's has 1024: all requests go through the host,
#: which waits for its turn among the sandboxes. With 1024 each, four guests of 14 Python threads (each thread asks for
#: the interpreter's lock every 5 ms, and the group wakes as often) made honest requests wait 5 to 14 times as long.
_SHARES = 256

#: Who used this part of one processor since the last look has kept it, and gives way.
_KEPT = 0.2
#: Where sandboxes together use this part of all processors, it is half of what each of those at work had, if that is
#: less: twenty that spin on two processors have a tenth each. Others do not hold them back then.
_FULL = 0.75
#: Below this part of one processor a sandbox is not at work: a look at such a share says little.
_LITTLE = 0.01
#: Who gives way and had less than this part of what makes others give way is normal again: it rests.
_RESTS = 0.25
#: So is who had less than this part of what it had before it gave way: others leave it nothing. So no guest starves
#: beside a busy service: one that computes has this much of what its weight gives it, and all of it at the next look.
_LEFT = 0.125

#: Between two looks (seconds), while sandboxes compute and while they rest.
_PAUSE_S, _REST_S = 0.1, 0.2
#: A look may take this part of one processor.
_SHARE = 0.05
#: How many that were not at work are read in one look, in their turn, while it is not known who used the processor.
_OTHERS = 64


class Weight(NamedTuple):
    """What a control group weighs: the file that says it, and what it says."""

    file: str
    text: str


class Turn:
    """One group's place at the processor. Thread-safe: the watchdog's thread looks while the sandbox ends."""

    def __init__(self, directory: str | None, weight: Weight | None, spent_s: Callable[[], float]) -> None:
        self._directory, self._weight, self._spent_s = directory, weight, spent_s
        self._lock = threading.Lock()
        self._ends = False
        self._seen: tuple[float, float] | None = None
        #: what part of a processor it had before it gave way
        self._had = 0.0
        self.gives_way = False

    def begin(self) -> None:
        """Have its weight, where that is not the default one: for a new group. Raises OSError."""
        if self._directory is not None and self._weight is not None:
            write(f"{self._directory}/{self._weight.file}", self._weight.text)

    def look(self, now_s: float, before_s: float, kept: float) -> tuple[float, float]:
        """See what was used since the look at `before_s`, and give way or be normal again.

        Return it in seconds, and as a part of one processor; below 0 where it was not read at that look, so that
        this one begins the count. Raises OSError where the group is gone.
        """
        with self._lock:
            if self._ends:
                return 0.0, 0.0
            spent_s = self._spent_s()
            (seen_s, at_s), self._seen = self._seen or (spent_s, 0.0), (spent_s, now_s)
            used_s = spent_s - seen_s
            if at_s < before_s or now_s <= at_s:
                return used_s, -1.0
            part = used_s / (now_s - at_s)
            if self.gives_way:
                self._set(part >= max(kept * _RESTS, self._had * _LEFT))
            elif part >= kept:
                self._had = part
                self._set(True)
            return used_s, part

    def end(self) -> None:
        """Be normal from now on: what ends needs the processor for that, and others wait for its memory."""
        with self._lock:
            self._ends = True
            self._set(False)

    def start(self) -> None:
        """Be normal and count anew: the group is another sandbox's."""
        with self._lock:
            self._ends = False
        self.begin_anew()

    def begin_anew(self) -> None:
        """Be normal until the look after the next: the guest is to notice something, and has little time for that."""
        with self._lock:
            self._seen = None
            self._set(False)

    def prove(self) -> bool:
        """Say whether the kernel lets this group give way, and be normal again."""
        with self._lock:
            self._set(True)
            proven = False
            with contextlib.suppress(OSError):
                proven = self.gives_way and read(f"{self._directory}/cpu.idle").strip() == "1"
            self._set(False)
            return proven

    def _set(self, gives_way: bool) -> None:
        """Write it where it is another; what cannot be written stays as it was. Call with the lock held."""
        if self._directory is None or gives_way == self.gives_way:
            return
        with contextlib.suppress(OSError):  # not there before Linux 5.15; not ours to write; the group is gone
            write(f"{self._directory}/cpu.idle", str(int(gives_way)))
            self.gives_way = gives_way
            if not gives_way:
                self.begin()  # it has the default weight again


class Weights:
    """What the groups of one tree weigh at the processor."""

    def __init__(self, layout: Layout, tree: str) -> None:
        self._layout, self._tree = layout, tree
        #: each group has the same weight
        self.given = False
        #: the kernel was seen to let a group give way
        self.give_way = False

    def prepare(self) -> None:
        """Let each group weigh the same at the processor, however many processes are in it.

        On v2 these are the tree's children, which have together as many times the default weight (100, cgroup-v2.rst)
        as there are processors. On v1 each has a weight of its own, and is no child of the tree.
        """
        place = self._layout.weight
        if place is None:
            return
        directory = f"{place.parent}/{self._tree}"
        if place.version == 1:
            self.given = os.path.exists(f"{directory}/cpu.shares")  # CONFIG_FAIR_GROUP_SCHED
            return
        with contextlib.suppress(OSError):  # EINVAL: real-time processes elsewhere
            write(f"{directory}/cgroup.subtree_control", "+cpu")
            write(f"{directory}/cpu.weight", str(min(100 * (os.cpu_count() or 1), 10_000)))
            self.given = True

    def directory_of(self, name: str) -> str | None:
        """Return the directory that has the weight of one sandbox's group, None where there is none."""
        place = self._layout.weight
        return None if place is None or not self.given else self._layout.group(place.parent, self._tree, name)

    def turn_of(self, name: str, spent_s: Callable[[], float]) -> Turn:
        """Return the turn of the group of that name, whose processor time in all `spent_s` reads."""
        place = self._layout.weight
        weight = Weight("cpu.shares", str(_SHARES)) if place is not None and place.version == 1 else None
        return Turn(self.directory_of(name), weight, spent_s)

    def spent_s(self) -> float:
        """Return the processor time of all sandboxes, or of more than these where no directory is theirs alone."""
        place = self._layout.cpu
        assert place is not None
        tree = f"{place.parent}/{self._tree}"
        theirs = self._layout.group(place.parent, self._tree, "").startswith(f"{tree}/")
        return spent_s(tree if theirs else place.parent, place.version)


class Turns:
    """Looks who keeps the processor. Idle sandboxes cost nothing: one file tells what all have used.

    `spent_s` reads that file. `held` returns the turns of the sandboxes that there are.
    """

    def __init__(
        self,
        spent_s: Callable[[], float],
        held: Callable[[], Iterable[Turn]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spent_s, self._held, self._clock = spent_s, held, clock
        self._processors = len(os.sched_getaffinity(0))
        self._seen = (0.0, 0.0)
        #: who worked at the last look: these are read at the next in any case
        self._busy: list[Turn] = []
        #: where reading the others goes on
        self._next = 0

    def look(self) -> float:
        """Let those give way who have kept the processor, and those be normal who rest. Return the pause (seconds)."""
        now_s = self._clock()
        try:
            spent_s = self._spent_s()
        except OSError:
            return _REST_S
        (seen_s, before_s), self._seen = self._seen, (spent_s, now_s)
        used_s, took_s = spent_s - seen_s, now_s - before_s
        if used_s < _KEPT * took_s and not any(one.gives_way for one in self._busy):
            self._busy = []
            return _REST_S
        kept, part = _KEPT, used_s / took_s
        if part >= _FULL * self._processors:
            kept = min(kept, max(_LITTLE, part / 2 / max(1, len(self._busy))))
        self._busy = self._look_at(used_s, kept, now_s, before_s)
        return max(_PAUSE_S, (self._clock() - now_s) / _SHARE)

    def _look_at(self, used_s: float, kept: float, now_s: float, before_s: float) -> list[Turn]:
        """Read who was at work, then others until the rest of what was used can make none give way.

        Return those who are at work now.
        """
        held = list(self._held())
        there, known = set(held), set(self._busy)
        busy = [one for one in self._busy if one in there]
        others = [one for one in held[self._next :] + held[: self._next] if one not in known][:_OTHERS]
        took_s, found = now_s - before_s, []
        for number, one in enumerate(busy + others):
            if number >= len(busy) and used_s < kept * took_s:
                break
            with contextlib.suppress(OSError):
                spent_s, part = one.look(now_s, before_s, kept)
                if part < 0:
                    part = spent_s / took_s  # in more than that time: the next look tells
                else:
                    used_s -= spent_s
                if part >= _LITTLE or one.gives_way:
                    found.append(one)
        self._next = (self._next + len(others)) % max(1, len(held))
        return found
