"""Where this process may make control groups: v2, v1, a mix of both, a delegated subtree, or nowhere.

Reads `/proc/self/mountinfo` and `/proc/self/cgroup` and the control files themselves; changes nothing.
"""

from __future__ import annotations

import os

import msgspec

from ..native import mount_table

#: Without these two a fork bomb or a memory bomb spread over processes is not bounded: all or nothing.
NEEDED = frozenset({"memory", "pids"})


#: Slices, services, scopes and containers below each other; supervisors are not nested deeper than this.
_DEEPEST = 8


class Place(msgspec.Struct, frozen=True):
    """A directory in which control groups can be made, and what has to be done there first."""

    version: int
    parent: str
    #: v2: controllers to enable in the parent's `cgroup.subtree_control`; only its root, or a vacated one, allows that
    enable: bool = False
    #: v2: the parent holds this process, which must move into a leaf before controllers can be enabled
    #: (the "no internal processes" rule, Documentation/admin-guide/cgroup-v2.rst)
    vacate: bool = False


class Layout(msgspec.Struct, frozen=True):
    """One place per role; `unified` serves cgroup.kill, CLONE_INTO_CGROUP and BPF attachment."""

    memory: Place | None = None
    pids: Place | None = None
    cpu: Place | None = None
    unified: Place | None = None
    #: gives each group an equal weight at the processor; sandboxes are bounded without it
    weight: Place | None = None
    reason: str = ""
    remedy: str = ""
    parents: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """True when memory, tasks and processor time of a sandbox can all be bounded or read."""
        return self.memory is not None and self.pids is not None and self.cpu is not None

    def group(self, parent: str, tree: str, name: str) -> str:
        """Return the directory of one sandbox's group: in its supervisor's, or beside that where weights are.

        Beside on v1, whose hierarchy of weights is one of its own: a group competes as a child of its parent, so that
        all below one directory wait together once one of them had more than its part (sched-design-CFS.rst, 7).
        """
        beside = self.weight is not None and self.weight.version == 1 and self.weight.parent == parent
        return f"{parent}/{tree}{'.' if beside else '/'}{name}"

    @property
    def summary(self) -> str:
        """Return a short text such as `memory v1, pids v1, cpu v2, kill v2`."""
        roles = {"memory": self.memory, "pids": self.pids, "cpu": self.cpu, "kill": self.unified}
        return ", ".join(f"{role} v{place.version}" for role, place in roles.items() if place is not None)


class _Mount(msgspec.Struct, frozen=True):
    root: str
    point: str
    version: int
    options: frozenset[str]


def detect(proc_self: str = "/proc/self") -> Layout:
    """Return where this process may make control groups, or a layout that is not `usable` and says why."""
    mounts = _mounts(proc_self)
    if not mounts:
        return Layout(
            reason="no cgroup file system is mounted",
            remedy="mount one: mount -t cgroup2 none /sys/fs/cgroup",
        )
    own = _own_directories(_read(f"{proc_self}/cgroup"), mounts)
    refused: list[str] = []
    found = {name: place for name in ("memory", "pids", "cpuacct") if (place := _v1_place(name, own, refused))}
    weight = _v1_place("cpu", own, [])
    full, bare = _v2_places(own.get("", ("", ""))[0], own.get("", ("", ""))[1], refused)
    memory, pids = found.get("memory") or full, found.get("pids") or full
    unified = full or bare
    # cpu.stat of a v2 group needs no controller (kernel/cgroup/rstat.c: base statistics), so it spares a hierarchy.
    cpu = unified or found.get("cpuacct")
    if full is not None and "cpu" in _words(
        full.parent, f"cgroup.{'controllers' if full.enable else 'subtree_control'}"
    ):
        weight = full
    places = {place.parent for place in (memory, pids, unified, cpu, weight) if place is not None}
    return Layout(
        memory=memory,
        pids=pids,
        cpu=cpu,
        unified=unified,
        weight=weight,
        reason="; ".join(refused),
        remedy=_remedy(),
        parents=tuple(sorted(places)),
    )


def named(name: str, proc_self: str = "/proc/self") -> list[str]:
    """Return the control groups of that name in every mounted hierarchy, down to the depth that services nest to."""
    found = []
    for mount in _mounts(proc_self):
        for directory, below, _ in os.walk(mount.point):
            if name in below:
                found.append(f"{directory}/{name}")
            if directory.count("/") - mount.point.count("/") >= _DEEPEST:
                below.clear()
    return found


def _remedy() -> str:
    if os.geteuid() == 0:
        return "run the host process as a service with Delegate=yes, or with a writable cgroup file system"
    return "start the host process with: systemd-run --user --scope -p Delegate=yes -- COMMAND"


def _mounts(proc_self: str) -> list[_Mount]:
    try:
        mounts = mount_table.read_at(f"{proc_self}/mountinfo")
    except OSError:
        return []
    versions = {"cgroup": 1, "cgroup2": 2}
    return [
        _Mount(one.root, one.point, versions[one.kind], frozenset(one.options.split(",")))
        for one in mounts
        if one.kind in versions
    ]


def _own_directories(membership: str, mounts: list[_Mount]) -> dict[str, tuple[str, str]]:
    """Map each v1 controller, and "" for v2, to (own directory, mount point)."""
    own: dict[str, tuple[str, str]] = {}
    for line in membership.split("\n")[:-1]:
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            for mount in mounts:
                if (mount.version == 2) if not name else (mount.version == 1 and name in mount.options):
                    below = path if mount.root == "/" else path.removeprefix(mount.root)
                    own.setdefault(name, (os.path.normpath(f"{mount.point}/{below}"), mount.point))
    return own


def _v1_place(controller: str, own: dict[str, tuple[str, str]], refused: list[str]) -> Place | None:
    if controller not in own:
        return None
    directory = own[controller][0]
    if _writable(directory):
        return Place(1, directory)
    refused.append(f"{directory} is not writable")
    return None


def _v2_places(own: str, top: str, refused: list[str]) -> tuple[Place | None, Place | None]:
    """Return (a place with memory and pids, a place with none of them needed), nearest first."""
    if not own:
        return None, None
    bare = Place(2, own) if _writable(own) else None
    directory = own
    while True:
        # Every candidate is our own group or an ancestor, hence the common ancestor of source and target that the
        # kernel wants write access to when a process moves (cgroup-v2.rst, "Delegation Containment").
        if _words(directory, "cgroup.subtree_control") >= NEEDED and _writable(directory):
            return Place(2, directory), bare
        if directory == top or len(directory) <= len(top):
            break
        directory = os.path.dirname(directory)
    if not _words(own, "cgroup.controllers") >= NEEDED:
        if bare is None:
            refused.append(f"{own} is not writable")
        else:
            refused.append(f"{own} offers neither memory nor pids")
        return None, bare
    if bare is None or not os.access(f"{own}/cgroup.subtree_control", os.W_OK):
        refused.append(f"{own} is not delegated to this user")
        return None, None
    # Only the real root has no cgroup.type, and only it may hold processes and controllers at once.
    if not os.path.exists(f"{own}/cgroup.type"):
        return Place(2, own, enable=True), bare
    if _words(own, "cgroup.procs") <= {str(os.getpid())}:
        return Place(2, own, enable=True, vacate=True), bare
    refused.append(f"{own} holds other processes, so controllers cannot be enabled in it")
    return None, None


def _words(directory: str, file: str) -> frozenset[str]:
    return frozenset(_read(f"{directory}/{file}").split())


def _writable(directory: str) -> bool:
    return os.access(directory, os.W_OK | os.X_OK) and os.access(f"{directory}/cgroup.procs", os.W_OK)


def _read(path: str) -> str:
    try:
        with open(path, errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""
