"""How a cell confines itself: once when it is forked (policy-independent), once at hand-out (the policy's part).

Runs inside the cell, before any guest code. Every step is named; a step that fails is reported, never skipped in
silence, and the supervisor decides (strict: the cell is discarded) with what the kernel itself told it.
"""

from __future__ import annotations

import functools
import os
import resource
import signal
import socket
from collections.abc import Callable

import msgspec

from ..native import landlock, mount, process, seccomp


class CellSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What the zygote gives every cell it forks."""

    uid: int
    gid: int
    clone_flags: int
    seccomp_program: bytes
    dumpable: bool
    #: (resource, soft, hard) that no policy changes
    rlimits: tuple[tuple[int, int, int], ...] = ()


class Steps:
    """Runs named steps and remembers which succeeded and which failed, with the reason."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.failed: list[tuple[str, str]] = []

    def run(self, name: str, step: Callable[[], object]) -> None:
        """Run one step; OSError is recorded, anything else is a defect and ends the cell."""
        try:
            step()
        except OSError as error:
            self.failed.append((name, f"{type(error).__name__}: {error}"))
        else:
            self.done.append(name)


def confine_at_fork(spec: CellSpec, keep: set[int], steps: Steps) -> None:
    """Apply everything that no policy can change, but for the filter (`load_filter`).

    Order matters: the identity maps need the capabilities of the new user namespace; the parent-death signal is
    cleared by credential changes (prctl(2)), so it comes after them.
    """
    if spec.clone_flags & process.CLONE_NEWUSER:
        steps.run("user namespace", lambda: process.write_id_maps(spec.uid, spec.gid))
    if spec.clone_flags:
        steps.done.append("namespaces")
    steps.run("session", os.setsid)
    steps.run("descriptors", lambda: process.close_all_except(sorted(keep)))
    if spec.clone_flags & process.CLONE_NEWUTS:
        steps.run("host name", lambda: process.set_hostname("sandbox"))
    steps.run("no_new_privs", process.set_no_new_privs)
    steps.run("dumpable", lambda: process.set_dumpable(spec.dumpable))
    for which, soft, hard in spec.rlimits:
        steps.run(f"rlimit {which}", functools.partial(resource.setrlimit, which, (soft, hard)))
    steps.run("capability bounding set", process.keep_only_chroot)
    steps.run("parent death signal", lambda: process.set_pdeathsig(signal.SIGKILL))
    os.umask(0o077)


def load_filter(spec: CellSpec, peer: socket.socket, steps: Steps, report: Callable[[], bytes]) -> None:
    """Load the seccomp filter and send the report, the filter's listener with it. Always sends exactly one report."""
    steps.done.append("seccomp")  # undone below: the report that rides with the listener must already say it
    if spec.seccomp_program:
        try:
            seccomp.install_and_send(spec.seccomp_program, peer.fileno(), report())
        except OSError as error:
            failure = f"{type(error).__name__}: {error}"
        else:
            return
    else:
        failure = "no filter could be made on this kernel"
    steps.done.remove("seccomp")
    steps.failed.append(("seccomp", failure))
    peer.sendall(report())


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
    if (tree := descriptors.pop("root view", None)) is not None:
        steps.run("root view", lambda: mount.enter_root(tree))
        os.close(tree)
    try:
        os.chdir(working_directory)
    except OSError:
        os.chdir("/")
    for which, soft, hard in rlimits:
        steps.run(f"rlimit {which}", functools.partial(resource.setrlimit, which, (soft, hard)))
    steps.run("capabilities", process.keep_only_chroot if rehearsal else process.drop_chroot)
    if (ruleset := descriptors.pop("landlock", None)) is not None:
        steps.run("landlock", lambda: landlock.restrict_self(ruleset))
        os.close(ruleset)
    for descriptor in descriptors.values():
        os.close(descriptor)
