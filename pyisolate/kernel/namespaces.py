"""Namespaces: user, pid, mount, ipc, uts and net of a cell's own (namespaces(7)).

The pid namespace makes the cell its init: when it dies the kernel kills everything in it, and nothing outside can be
named by a signal. The network namespace is empty, so that a socket the guest makes by itself reaches nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from ..capability import Capability
from ..choices import EnforcerName
from ..enforcement import Availability, Status
from ..native import namespaces, process
from ..native.result import cause_of
from .enforcer import Enforcer
from .prepared import Draft

ALL = (
    process.CLONE_NEWUSER
    | process.CLONE_NEWPID
    | process.CLONE_NEWNS
    | process.CLONE_NEWIPC
    | process.CLONE_NEWUTS
    | process.CLONE_NEWNET
)


def maps_uid(uid: int) -> bool:
    """True where this process's user namespace has such a user: no process can become one that is not mapped."""
    with open("/proc/self/uid_map") as table:
        ranges = [tuple(map(int, line.split())) for line in table]
    return any(first <= uid < first + count for first, _outside, count in ranges)


def _text(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def outer_filter(read: Callable[[str], str] = _text) -> str:
    """Return what to do where calls are refused and a filter is around this process; empty where none is."""
    if "Seccomp:\t2" not in read("/proc/self/status"):
        return ""
    return (
        "run this container under pyisolate's seccomp profile, docs/deploy/seccomp.json of its source (docker run "
        "--security-opt seccomp=seccomp.json, Kubernetes: seccompProfile.type Localhost): the filter around this "
        "process refuses calls that make sandboxes, such as unshare(2), mount(2) and pidfd_getfd(2)"
    )


def remedy(read: Callable[[str], str] = _text) -> str:
    """Return what to do where namespaces are refused, by the cause that this system shows. `read` returns a file."""
    if read("/proc/sys/user/max_user_namespaces").strip() == "0":
        return "sysctl user.max_user_namespaces=15000: it is 0 here"
    if read("/proc/sys/kernel/unprivileged_userns_clone").strip() == "0":
        return "sysctl kernel.unprivileged_userns_clone=1: it is 0 here"
    if outer := outer_filter(read):
        return outer
    if read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").strip() == "1":
        return (
            "give this program an AppArmor profile with `userns,` (Ubuntu 24.04 refuses it to others), or "
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0"
        )
    return "allow user namespaces to the user that cells are (`unshare -Ur true` must work), or run as root"


class NamespaceEnforcer(Enforcer):
    """Probes the namespaces by making a process in all of them, as the user that cells will be."""

    name: EnforcerName = "namespaces"

    def __init__(self, uid: int, gid: int, *, simulate_missing: bool = False) -> None:
        self._uid, self._gid, self._simulate_missing = uid, gid, simulate_missing
        self.clone_flags = ALL
        self._usable = False

    def capabilities(self) -> frozenset[Capability]:
        """Return what the namespaces decide."""
        return frozenset(
            {Capability.PROCESS_SIGNAL, Capability.PROCESS_TRACE, Capability.IPC_SYSV, Capability.IPC_POSIX}
        )

    def probe(self) -> Availability:
        """Make a process in new namespaces; it must be pid 1 and see no network interface that is up."""
        if self._simulate_missing:
            return self._unavailable("simulated")
        try:
            proof = namespaces.probe_namespaces(self.clone_flags, self._uid, self._gid)
        except OSError as error:
            return self._unavailable(f"{cause_of(error)} (as uid {self._uid})", error.errno)
        return Availability(enforcer=self.name, status=Status.AVAILABLE, proof=proof)

    def add_to(self, draft: Draft) -> None:
        """Namespaces have no table: they are the same for every policy."""
        if draft.isolation == "process" and not draft.usable(self.name):
            draft.lack(self.name, "processes and signals outside the sandbox")

    def running(self) -> frozenset[str]:
        """Return the namespaces, where the last probe could make them."""
        return frozenset({self.name}) if self._usable else frozenset()

    def start(self) -> tuple[Availability, ...]:
        """Probe, and remember the answer."""
        found = self.probe()
        self._usable = found.usable
        return (found,)

    def _unavailable(self, reason: str, errno: int | None = None) -> Availability:
        return Availability(
            enforcer=self.name,
            status=Status.UNAVAILABLE,
            reason=reason,
            remedy=remedy(),
            errno=errno,
            detail={"euid": os.geteuid()},
        )
