"""What a fresh cell does between its fork and its first request.

A cell of the zygote does it step by step. One of a policy zygote leaves most of it to one call of C: its report and its
hand-out are foreseen there, and what an interpreter does not run it writes to no page for.
"""

from __future__ import annotations

import functools
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping

from ..choices import Step
from ..hooks import seeding
from ..native import cell_start, process
from ..native.seccomp import User
from . import wire
from .at_fork import AT_FORK
from .confine import HAND_OUT, AtFork, CellSpec, Steps, load_filter, report_without_filter
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


def put_right() -> None:
    """Undo in a fresh cell what is the zygote's: its signals and forks, its thread's number, its randomness."""
    process.wake_on(signal.SIGCHLD, None)
    AT_FORK.be_guests()
    _be_thread(threading.get_native_id())
    seeding.renew()


def _be_thread(number: int) -> None:
    """Let the main thread know its number, as it does after a fork from 3.13 on."""
    threading.main_thread()._native_id = number  # type: ignore[attr-defined]  # noqa: SLF001


def main(
    guest: Guest, channel: socket.socket, rehearse: Callable[[Guest], None], finish_confinement: Callable[[], None]
) -> int:
    """Finish the confinement and report, rehearse while the host prepares the hand-out, serve; return the status."""
    _open(guest, channel, os.getpid())
    finish_confinement()
    rehearse(guest)
    return _serve(guest)


def _open(guest: Guest, channel: socket.socket, pid: int) -> None:
    guest.open(channel, pid)
    flush_before_exit(pid)


def _serve(guest: Guest) -> int:
    try:
        guest.serve()
    except (HostGone, ConnectionError, BrokenPipeError):
        return 0
    return 0


class Foreseen:
    """Made in a policy zygote: how its cells become standby cells of the policy.

    The supervisor sends the policy zygote the hand-out that its cells will get. A cell that gets another one
    continues in Python, and so does one where a step failed, which is then reported as ever.
    """

    def __init__(
        self,
        guest: Guest,
        spec: CellSpec,
        confinement: AtFork,
        programs: Mapping[bool, bytes],
        null: int,
        init: wire.Init,
        *,
        maps: bool,
    ) -> None:
        self._guest, self._spec, self._confinement, self._init = guest, spec, confinement, init
        self._programs = programs
        #: a socket that leads nowhere: each cell puts its own in the place of this descriptor
        self._channel, end = socket.socketpair()
        end.close()
        #: a guest is process 2 of its pid namespace, below its init
        self._pid = 2 if spec.clone_flags & process.CLONE_NEWPID else 0
        if self._pid:
            _open(guest, self._channel, self._pid)
            _be_thread(self._pid)
        self._steps = _steps_of(init)
        frames = cell_start.Frames(
            wire.encode(wire.Warm(steps=(*confinement.names, "seccomp"))),
            wire.encode(init),
            wire.encode(wire.Ready(steps=tuple(self._steps))),
        )
        hand_out = cell_start.HandOut(init.descriptors, init.rlimits, init.working_directory, init.sandbox)
        user = User(spec.uid, spec.gid, spec.dumpable) if maps else None
        given = cell_start.ZygoteFacts(self._pid, null, self._channel.fileno())
        self._starts = {
            forks: cell_start.CellStart(confinement.native, given, program, user, frames, hand_out)
            for forks, program in programs.items()
        }
        sys.argv[:] = [f"<{init.sandbox}>"]

    @staticmethod
    def possible(programs: Mapping[bool, bytes], init: wire.Init) -> bool:
        """Tell whether C can do all that this hand-out asks for, and a filter there is."""
        known = {"root view", "landlock"}
        short = len(wire.encode(init)) <= cell_start.MOST_BYTES
        return short and all(programs.values()) and known.issuperset(init.descriptors) and init.shadow is None

    def become(self, channel: int, outputs: tuple[int, int], asked: int, mapped: int | None, *, forks: bool) -> int:
        """Be a cell until the host goes; return the status."""
        start, guest = self._starts[forks], self._guest
        came = start.run(channel, outputs, asked, mapped)
        if came is cell_start.Came.BROKEN:
            os.dup2(outputs[1], 2)  # it may have no streams of its own yet, and the zygote's are the host's
            start.check_begun()
        AT_FORK.be_guests()
        if not self._pid:
            _open(guest, self._channel, os.getpid())
            _be_thread(threading.get_native_id())
        seeding.renew(start.entropy)
        if came is cell_start.Came.DONE:
            guest.enter(self._init)
        elif came is cell_start.Came.GONE:
            return 0
        elif came is cell_start.Came.OTHER:
            guest.inbox.accept(*start.received)
        elif came is cell_start.Came.HAND_OUT:
            steps = Steps()
            for name, number in self._steps.items():
                steps.run(name, functools.partial(start.check, number))
            try:
                start.check(cell_start.DIRECTORY)
            except OSError as error:
                steps.failed.append(("working directory", error.strerror or ""))
            guest.enter(self._init, steps)
        else:
            self._report(start, came, mapped is not None, forks)
        return _serve(guest)

    def _report(self, start: cell_start.CellStart, came: cell_start.Came, mapped: bool, forks: bool) -> None:
        """Something of what no policy changes has failed: say what."""
        steps, peer, spec = Steps(), self._channel, self._spec

        def report() -> bytes:
            return wire.encode(wire.Warm(steps=tuple(steps.done), failed=tuple(steps.failed)))

        if came is cell_start.Came.CONFINE:
            start.share()
            self._confinement.note(steps)
            load_filter(spec, self._programs[forks], peer, mapped, steps, report)
            return
        steps.done.extend(self._confinement.names)
        try:
            start.check_begun()
        except OSError as error:
            report_without_filter(spec, f"{type(error).__name__}: {error}", peer, mapped, steps, report)


def _steps_of(init: wire.Init) -> dict[Step, int]:
    """Return the steps of a hand-out that are reported where they succeed, in their order, with their numbers in C."""
    absent = {"root view", "landlock"} - set(init.descriptors) | {"working directory"}
    return {name: number for name, number in STEP_NUMBERS.items() if name not in absent}
