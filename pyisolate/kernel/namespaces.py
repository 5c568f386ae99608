"""Namespaces: user, pid, mount, ipc, uts and net of a cell's own (namespaces(7)).

The pid namespace makes the cell its init: when it dies the kernel kills everything in it, and nothing outside can be
named by a signal. The network namespace is empty, so that a socket the guest makes by itself reaches nothing.
"""

from __future__ import annotations

import os

from ..capability import Capability
from ..native import namespaces, process
from .enforcer import Availability, Status

ALL = (
    process.CLONE_NEWUSER
    | process.CLONE_NEWPID
    | process.CLONE_NEWNS
    | process.CLONE_NEWIPC
    | process.CLONE_NEWUTS
    | process.CLONE_NEWNET
)


def maps_uid(uid: int) -> bool:
    """True where this process's user namespace has such a user: nobody can become one that is not mapped."""
    with open("/proc/self/uid_map") as table:
        ranges = [tuple(map(int, line.split())) for line in table]
    return any(first <= uid < first + count for first, _outside, count in ranges)


class NamespaceEnforcer:
    """Probes the namespaces by making a process in all of them, as the user that cells will be."""

    name = "namespaces"

    def __init__(self, uid: int, gid: int, *, simulate_missing: bool = False) -> None:
        self._uid, self._gid, self._simulate_missing = uid, gid, simulate_missing
        self.clone_flags = ALL

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
            return self._unavailable(f"{error.strerror or error} (as uid {self._uid})")
        return Availability(enforcer=self.name, status=Status.AVAILABLE, proof=proof)

    def prepare(self, policy: object) -> None:
        """Namespaces have no table: they are the same for every policy."""

    def _unavailable(self, reason: str) -> Availability:
        return Availability(
            enforcer=self.name,
            status=Status.UNAVAILABLE,
            reason=reason,
            remedy=(
                "allow user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone=1, "
                "kernel.apparmor_restrict_unprivileged_userns=0)"
            ),
            detail={"euid": os.geteuid()},
        )
