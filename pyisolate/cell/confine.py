"""How a cell confines itself: once when it is forked (policy-independent), once at hand-out (the policy's part).

Runs inside the cell, before any guest code. Every step is named; a step that fails is reported, never skipped in
silence, and the supervisor decides (strict: the cell is discarded) with what the kernel itself answered.
"""

from __future__ import annotations

import functools
import os
import signal
import socket
from collections.abc import Callable

import msgspec

from ..choices import Step
from ..limits import rlimit
from ..native import cell_confine, landlock, mount, process, quiet, seccomp

#: The steps of a hand-out, in their order. Those in C have the same numbers (native/src/cell_start.types.h).
HAND_OUT: tuple[Step, ...] = ("root view", "working directory", "resource limits", "capabilities", "landlock")


class CellSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What the zygote gives every cell it forks."""

    uid: int
    gid: int
    #: the zygote's own user; another than the cells' where it may map theirs (it then keeps CAP_SETUID)
    zygote_uid: int
    #: (first, count): users outside of whom each cell is one, to itself `uid`; None: all are `uid`
    uid_range: tuple[int, int] | None = None
    clone_flags: int
    seccomp_program: bytes
    #: the same for cells whose policy lets them fork: they need not ask, so that no signal can interrupt a fork
    forking_program: bytes
    dumpable: bool
    #: (resource, soft, hard) that no policy changes
    rlimits: tuple[tuple[int, int, int], ...] = ()
    #: file calls of which the listener sees what was refused only, where the zygote has the library for it
    quiet_calls: tuple[quiet.QuietCall, ...] = ()
    #: of these there are none but look-ups
    every_file_call: bool = False
    #: its C library reports look-ups that found nothing, and limits that were met
    reports: bool = False


def maps_others(spec: CellSpec) -> bool:
    """True where the zygote is another user than its cells: it maps theirs, and they become it."""
    return spec.zygote_uid != spec.uid or spec.uid_range is not None


class Steps:
    """Runs named steps and remembers which succeeded and which failed, with the reason."""

    def __init__(self) -> None:
        self.done: list[Step] = []
        self.failed: list[tuple[Step, str]] = []

    def run(self, name: Step, step: Callable[[], object]) -> None:
        """Run one step; OSError is recorded, anything else is a defect and ends the cell."""
        try:
            step()
        except OSError as error:
            self.failed.append((name, f"{type(error).__name__}: {error}"))
        else:
            self.done.append(name)


class AtFork:
    """Everything that no policy can change, but for the filter (`load_filter`). Made in the zygote, once for all cells.

    `maps`: the zygote maps each cell's user, and the cell becomes it with its filter.
    """

    def __init__(self, spec: CellSpec, *, maps: bool) -> None:
        own_user = bool(spec.clone_flags & process.CLONE_NEWUSER)
        keep = [process.CAP_SYS_CHROOT] if own_user else []  # else it has none to keep
        if maps:
            keep += [process.CAP_SETUID, process.CAP_SETGID]
        self.native = cell_confine.Confinement(
            spec.clone_flags, (spec.uid, spec.gid), spec.rlimits, keep, dumpable=spec.dumpable
        )
        taken: dict[Step, int | None] = {"user namespace": cell_confine.USER} if own_user else {}
        if spec.clone_flags:
            taken["namespaces"] = None  # by the fork itself
        taken |= {"session": cell_confine.SESSION, "descriptors": cell_confine.DESCRIPTORS}
        if spec.clone_flags & process.CLONE_NEWUTS:
            taken["host name"] = cell_confine.HOST_NAME
        taken |= {
            "no_new_privs": cell_confine.NO_NEW_PRIVS,
            "dumpable": cell_confine.DUMPABLE,
            "resource limits": cell_confine.LIMITS,
            "capability bounding set": cell_confine.CAPABILITIES,
            "parent death signal": cell_confine.DEATH_SIGNAL,
        }
        self._taken = taken
        self.names = tuple(taken)

    def apply(self, channel: int, mapped: int | None, steps: Steps) -> None:
        """Confine this cell, whose host is at the other end of `channel`; all other descriptors are closed.

        `mapped` is a pipe to which the zygote writes once it has mapped the cell's user.
        """
        if self.native.run(channel, mapped):
            steps.done.extend(self.names)
        else:
            self.note(steps)

    def note(self, steps: Steps) -> None:
        """Note of each step whether it succeeded."""
        for name, step in self._taken.items():
            if step is None:
                steps.done.append(name)
            else:
                steps.run(name, functools.partial(self.native.check, step))


def _limit(rlimits: tuple[tuple[int, int, int], ...]) -> None:
    """Set resource limits. A hard limit of the host's that is lower holds, and a cell may not raise it."""
    for which, soft, hard in rlimits:
        try:
            rlimit.apply({which: (soft, hard)})
        except (OSError, ValueError) as error:
            raise OSError(f"resource {which} of setrlimit(2), {soft} and {hard}: {error}") from error


def _become(spec: CellSpec) -> None:
    os.setresgid(spec.gid, spec.gid, spec.gid)
    os.setresuid(spec.uid, spec.uid, spec.uid)
    process.keep_only(process.CAP_SYS_CHROOT)
    process.set_dumpable(spec.dumpable)
    process.set_pdeathsig(signal.SIGKILL)


#: Where notification could not be proven: no listener would answer what the filter lets wait.
NO_FILTER = "none is loaded, because the supervisor has no listener for it"


def load_filter(
    spec: CellSpec, program: bytes, peer: socket.socket, mapped: bool, steps: Steps, report: Callable[[], bytes]
) -> None:
    """Load the seccomp filter and send the report, the filter's listener with it. Always sends exactly one report.

    The cell becomes its user here, where the zygote `mapped` one: what sends the listener is the zygote's user still.
    """
    steps.done.append("seccomp")  # undone below: the report that rides with the listener must already say it
    if program:
        try:
            user = seccomp.User(spec.uid, spec.gid, spec.dumpable) if mapped else None
            seccomp.install_and_send(program, peer.fileno(), report(), user)
        except OSError as error:
            failure = f"{type(error).__name__}: {error}"
        else:
            return
    else:
        failure = NO_FILTER
    steps.done.remove("seccomp")
    report_without_filter(spec, failure, peer, mapped, steps, report)


def report_without_filter(
    spec: CellSpec, failure: str, peer: socket.socket, mapped: bool, steps: Steps, report: Callable[[], bytes]
) -> None:
    """Send the report of a cell whose filter is not in force, and why; it becomes its user as the others do."""
    steps.failed.append(("seccomp", failure))
    if mapped:
        steps.run("user", lambda: _become(spec))
    peer.sendall(report())


def program_of(spec: CellSpec, *, forks: bool) -> bytes:
    """Return the filter, empty where none is loaded: the one that lets a cell fork, or the other.

    Without the library that makes quiet calls, every file call is notified.
    """
    program = spec.forking_program if forks else spec.seccomp_program
    address = quiet.address() if program and spec.quiet_calls else None
    return program if address is None else quiet.prefix(address, spec.quiet_calls) + program


def confine_at_handout(
    descriptors: dict[str, int],
    rlimits: tuple[tuple[int, int, int], ...],
    working_directory: str,
    steps: Steps,
    *,
    rehearsal: bool = False,
) -> None:
    """Apply the policy's part: root view, rlimits, loss of capabilities, Landlock. Closes the descriptors it used.

    A `rehearsal` keeps the capability that the real hand-out needs.
    """
    tree, ruleset = descriptors.get("root view"), descriptors.get("landlock")
    taken: dict[Step, Callable[[], object] | None] = {
        "root view": None if tree is None else functools.partial(mount.enter_root, tree),
        "resource limits": functools.partial(_limit, rlimits),
        "capabilities": process.keep_held if rehearsal else process.drop_chroot,
        "landlock": None if ruleset is None else functools.partial(landlock.restrict_self, ruleset),
    }
    for name in HAND_OUT:
        if name == "working directory":
            _enter(working_directory, steps)
        elif (step := taken[name]) is not None:
            steps.run(name, step)
    for descriptor in descriptors.values():
        os.close(descriptor)
    descriptors.clear()


def _enter(directory: str, steps: Steps) -> None:
    """Go to the working directory; where that fails it is for the host to judge: it may be one of its own choice."""
    try:
        os.chdir(directory)
    except OSError as error:
        steps.failed.append(("working directory", error.strerror or ""))
        os.chdir("/")
