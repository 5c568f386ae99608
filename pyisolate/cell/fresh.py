"""What a fresh cell does between its fork and its first request.

It leaves most of it to one call of C: its report is foreseen, and in a policy zygote its hand-out. What an interpreter
does not run it writes to no page for.
"""

from __future__ import annotations

import functools
import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping

from ..choices import Step
from ..hooks import seeding
from ..hooks.active import GATE
from ..native import cell_start, process
from ..native.seccomp import User
from . import wire
from .at_fork import AT_FORK
from .confine import HAND_OUT, NO_FILTER, AtFork, CellSpec, Steps, load_filter, report_without_filter
from .guest import Guest
from .inbox import HostGone
from .streams import flush_before_exit

#: The number in C of each step of a hand-out.
STEP_NUMBERS = dict(
    zip(
        HAND_OUT,
        (cell_start.ROOT, cell_start.DIRECTORY, cell_start.LIMITS, cell_start.CAPABILITIES, cell_start.LANDLOCK),
        strict=True,
    )
)


def _be_thread(number: int) -> None:
    """Let the main thread know its number, as it does after a fork from 3.13 on."""
    threading.main_thread()._native_id = number  # type: ignore[attr-defined]  # noqa: SLF001


def _open(guest: Guest, channel: socket.socket, pid: int) -> None:
    guest.open(channel, pid)
    flush_before_exit(pid, _report_repeats)


def _report_repeats() -> None:
    if (hooks := GATE.hooks) is not None:
        hooks.flush()


def _serve(guest: Guest) -> int:
    try:
        guest.serve_untraced()
    except (HostGone, ConnectionError, BrokenPipeError):
        return 0
    return 0


class FreshCells:
    """Made in a zygote: how its cells start.

    C takes every step up to the cell's report. In a policy zygote, to which the supervisor sends the hand-out that its
    standby cells will get (`foresee`), it goes on to the answer of that. A cell that gets another one continues in
    Python, and so does one where a step failed, which is then reported as ever.
    """

    def __init__(
        self,
        guest: Guest,
        spec: CellSpec,
        confinement: AtFork,
        programs: Mapping[bool, bytes],
        null: int,
        *,
        maps: bool,
    ) -> None:
        self._guest, self._spec, self._confinement = guest, spec, confinement
        self._programs = programs
        self._user = User(spec.uid, spec.gid, spec.dumpable) if maps else None
        #: a socket that leads nowhere: each cell puts its own in the place of this descriptor
        self._channel, end = socket.socketpair()
        end.close()
        #: a guest is process 2 of its pid namespace, below its init
        self._pid = 2 if spec.clone_flags & process.CLONE_NEWPID else 0
        if self._pid:
            _open(guest, self._channel, self._pid)
            _be_thread(self._pid)
        self._given = cell_start.ZygoteFacts(self._pid, null, self._channel.fileno())
        self._init: wire.Init | None = None
        self._steps: dict[Step, int] = {}
        self._starts = self._made(b"", b"", cell_start.HandOut((), (), "/", ""))

    def foresee(self, init: wire.Init) -> None:
        """In a policy zygote: have C take the steps of this hand-out as well, where it can do all that it asks for."""
        known = {"root view", "landlock"}
        short = len(frame := wire.encode(init)) <= cell_start.MOST_BYTES
        if not (short and known.issuperset(init.descriptors) and init.shadow is None):
            return
        self._init, self._steps = init, _steps_of(init)
        hand_out = cell_start.HandOut(init.descriptors, init.rlimits, init.working_directory, init.sandbox)
        self._starts = self._made(frame, wire.encode(wire.Ready(steps=tuple(self._steps))), hand_out)
        sys.argv[:] = [f"<{init.sandbox}>"]

    def _made(self, init: bytes, ready: bytes, hand_out: cell_start.HandOut) -> dict[bool, cell_start.CellStart]:
        warm = wire.encode(wire.Warm(steps=(*self._confinement.names, "seccomp")))
        frames = cell_start.Frames(warm, init, ready)
        return {
            forks: cell_start.CellStart(self._confinement.native, self._given, program, self._user, frames, hand_out)
            for forks, program in self._programs.items()
        }

    @property
    def opened(self) -> bool:
        """True where a guest is open before it is forked: its process id is known."""
        return bool(self._pid)

    @property
    def starts(self) -> list[cell_start.CellStart]:
        """What C has each cell do: one that asks the listener before it forks, and one that may fork."""
        return [self._starts[forks] for forks in (False, True)]

    def go_on(self, came: cell_start.Came, rehearse: Callable[[Guest], None], *, forks: bool) -> int:
        """Be a cell, which came so far in C, until the host goes; return the status.

        It rehearses while the host prepares the hand-out.
        """
        start, guest = self._starts[forks], self._guest
        if came is cell_start.Came.BROKEN:
            start.check_begun()
        AT_FORK.be_guests()
        if not self._pid:
            _open(guest, self._channel, os.getpid())
            _be_thread(threading.get_native_id())
        seeding.renew(start.entropy)
        if came is cell_start.Came.GONE:
            return 0
        if came is cell_start.Came.OTHER:
            guest.inbox.accept(*start.received)
        elif came in (cell_start.Came.DONE, cell_start.Came.HAND_OUT):
            self._enter(start, came)
        else:
            if came is not cell_start.Came.REPORTED:
                self._report(start, came, forks)
            rehearse(guest)
        return _serve(guest)

    def _enter(self, start: cell_start.CellStart, came: cell_start.Came) -> None:
        """Be under the policy whose hand-out was foreseen, and has come; say what failed of it."""
        init = self._init
        assert init is not None
        if came is cell_start.Came.DONE:
            self._guest.enter(init)
            return
        steps = Steps()
        for name, number in self._steps.items():
            steps.run(name, functools.partial(start.check, number))
        try:
            start.check(cell_start.DIRECTORY)
        except OSError as error:
            steps.failed.append(("working directory", error.strerror or ""))
        self._guest.enter(init, steps)

    def _report(self, start: cell_start.CellStart, came: cell_start.Came, forks: bool) -> None:
        """Something of what no policy changes has failed: say what."""
        steps, peer, spec, mapped = Steps(), self._channel, self._spec, self._user is not None

        def report() -> bytes:
            return wire.encode(wire.Warm(steps=tuple(steps.done), failed=tuple(steps.failed)))

        if came is cell_start.Came.CONFINE:
            start.share()
            self._confinement.note(steps)
            load_filter(spec, self._programs[forks], peer, mapped, steps, report)
            return
        steps.done.extend(self._confinement.names)
        failure = NO_FILTER
        try:
            start.check_begun()
        except OSError as error:
            if self._programs[forks]:
                failure = f"{type(error).__name__}: {error}"
        report_without_filter(spec, failure, peer, mapped, steps, report)


def _steps_of(init: wire.Init) -> dict[Step, int]:
    """Return the steps of a hand-out that are reported where they succeed, in their order, with their numbers in C."""
    absent = {"root view", "landlock"} - set(init.descriptors) | {"working directory"}
    return {name: number for name, number in STEP_NUMBERS.items() if name not in absent}
