"""What a test may leave behind: nothing. A cheap snapshot of the process, and the difference of two of them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import psutil

PREFIX = "pyisolate."

#: Descriptors that a living supervisor's pool opens and closes on its own schedule (cell sockets, pidfds, listeners).
POOLED = ("socket:", "anon_inode:", "pipe:", "/memfd:", "/proc/", "/sys/fs/cgroup")

#: A policy's root view, which a living supervisor keeps for the next sandbox of that policy: a detached mount.
ROOT_VIEW = "/"

#: A sandbox that lives has its workspace at its listener.
WORKSPACE = "/sandbox/workspace"

SUPERVISOR_THREADS = "pyisolate"

_libc = ctypes.CDLL(None)
_KCMP, _KCMP_FILES = (312 if os.uname().machine == "x86_64" else 272), 2  # linux/kcmp.h, 3.5

#: Processes that a living supervisor may add between two tests while its pool refills: each cell is two, and a policy
#: that was asked for again has a zygote. The inits that zygotes have made ahead are not counted.
POOL_SLACK = 24


@dataclass(frozen=True)
class Snapshot:
    """What the process holds at one moment."""

    descriptors: dict[int, str]
    #: of guests, in the tables of listeners
    guests: Counter[str]
    children: frozenset[int]
    grandchildren: frozenset[int]
    cgroups: frozenset[str]
    mounts: bytes
    threads: frozenset[threading.Thread]
    sandboxes: int
    default_supervisor: int | None = field(default=None)


def descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        # The listing's own descriptor is in it and gone by now.
        with contextlib.suppress(OSError):
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def of_guests() -> Counter[str]:
    """Count what is open in tables of threads that have one of their own, as listeners do.

    But for the kernel's objects, which are a listener's own: pidfds, eventfds, the notifications of cells that live.
    """
    found: Counter[str] = Counter()
    own = os.getpid()
    seen: list[int] = [own]
    for task in map(int, os.listdir("/proc/self/task")):
        # 0: the same table; -1: the thread has ended, or the kernel has no kcmp
        if any(_libc.syscall(_KCMP, one, task, _KCMP_FILES, 0, 0) <= 0 for one in seen):
            continue
        seen.append(task)
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/self/task/{task}/fd"):
                with contextlib.suppress(FileNotFoundError):
                    found[os.readlink(f"/proc/self/task/{task}/fd/{name}")] += 1
    return Counter({name: count for name, count in found.items() if not name.startswith("anon_inode:")})


def without_namespaces(pid: int) -> list[str]:
    """Return a zygote's descriptors but for network namespaces: its own, and at most 24 for its next cells."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            if not os.readlink(f"/proc/{pid}/fd/{name}").startswith("net:"):
                found.append(name)
    return found


def children_of(pid: int | str) -> Iterator[int]:
    """Yield direct children; `/proc/PID/task/TID/children` spares a walk over the whole of /proc."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for task in tasks:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/children", "rb") as file:
            yield from map(int, file.read().split())


_fast_children = os.path.exists(f"/proc/self/task/{os.getpid()}/children")


def children() -> tuple[frozenset[int], frozenset[int]]:
    """Return the direct children, and the processes below them."""
    if not _fast_children:
        me = psutil.Process()
        direct = frozenset(child.pid for child in me.children())
        return direct, frozenset(child.pid for child in me.children(recursive=True)) - direct
    direct = frozenset(children_of("self"))
    below, queue = set[int](), list(direct)
    while queue:
        found = list(children_of(queue.pop()))
        below.update(found)
        queue += found
    return direct, frozenset(below)


class Below(NamedTuple):
    """The children of a zygote: inits of cells, an init made ahead, policy zygotes; and what begins or ends now."""

    cells: list[int]
    ahead: list[int]
    zygotes: list[int]
    others: list[int]


def below_zygote(zygote: int) -> Below:
    """Return a zygote's children, each as what it is."""
    below = Below([], [], [], [])
    for one in psutil.Process(zygote).children():
        try:
            name, lives = one.name(), one.status() != psutil.STATUS_ZOMBIE
            guest = lives and one.children()
        except psutil.NoSuchProcess:
            continue
        if lives and name == "pyisolate-init":
            (below.cells if guest else below.ahead).append(one.pid)
        else:
            (below.zygotes if lives and name.startswith("pyisolate-polic") else below.others).append(one.pid)
    return below


def _is_ahead(pid: int) -> bool:
    """Tell whether a process is an init that waits for its guest."""
    with contextlib.suppress(psutil.Error):
        one = psutil.Process(pid)
        return one.name() == "pyisolate-init" and one.status() != psutil.STATUS_ZOMBIE and not one.children()
    return False


def _cgroup_parents() -> tuple[str, ...]:
    """Return the directories in which a supervisor of this process could have made its cgroups."""
    mounts = []
    with open("/proc/self/mountinfo") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            kind, _, options = right.split(maxsplit=2)
            if kind in ("cgroup", "cgroup2"):
                mounts.append((left.split()[3], left.split()[4], kind, set(options.strip().split(","))))
    parents = set()
    with open("/proc/self/cgroup") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            for root, where, kind, options in mounts:
                mine = kind == "cgroup2" if not controllers else set(controllers.split(",")) <= options
                if mine:
                    below = path if root == "/" else path.removeprefix(root)
                    full = os.path.normpath(f"{where}/{below}")
                    # v2 sandboxes may live below an ancestor: controllers are delegated there.
                    while full.startswith(where):
                        parents.add(full)
                        full = os.path.dirname(full)
    return tuple(sorted(parents))


_parents = _cgroup_parents()


def _alive(pid: str) -> bool:
    return pid.isdigit() and os.path.exists(f"/proc/{pid}")


#: Supervisors of other runs on this machine, seen alive: what they leave when they die is not ours.
_others: set[str] = set()


def cgroups() -> frozenset[str]:
    """Return our cgroups, and those of supervisors that are gone; those of other runs are not our business."""
    me, found = str(os.getpid()), {}
    for parent in _parents:
        with contextlib.suppress(OSError):
            for name in os.listdir(parent):
                # a sandbox's own may lie beside its supervisor's, and comes and goes with the pool
                tree = name.rpartition(".s")[0]
                if name.startswith(PREFIX) and not (tree and os.path.exists(f"{parent}/{tree}")):
                    found[f"{parent}/{name}"] = name.split(".")[1]
    alive = {owner for owner in found.values() if owner != me and _alive(owner)}
    _others.update(owner for owner in alive - _others if not _descends_from_us(int(owner)))
    return frozenset(path for path, owner in found.items() if owner not in alive | _others)


def _descends_from_us(pid: int) -> bool:
    with contextlib.suppress(psutil.Error):
        return os.getpid() in (parent.pid for parent in psutil.Process(pid).parents())
    return False


def _default_supervisor() -> object | None:
    module = sys.modules.get("pyisolate.api")
    return getattr(module, "_default", None)


def _runs(supervisor: Any) -> bool:
    """Say whether it was started: one that refused its first policy was made, and holds nothing yet."""
    return supervisor.diagnostics().state != "new"


def _active_sandboxes() -> int:
    default = _default_supervisor()
    return 0 if default is None else len(default.sandboxes)  # type: ignore[attr-defined]


def snapshot() -> Snapshot:
    """Take one; about 0.2 ms."""
    direct, below = children()
    with open("/proc/self/mountinfo", "rb") as file:
        mounts = file.read()
    default = _default_supervisor()
    return Snapshot(
        descriptors=descriptors(),
        guests=of_guests(),
        children=direct,
        grandchildren=below,
        cgroups=cgroups(),
        mounts=mounts,
        threads=frozenset(threading.enumerate()),
        sandboxes=_active_sandboxes(),
        default_supervisor=id(default) if default is not None and _runs(default) else None,
    )


def _describe_process(pid: int) -> str:
    try:
        process = psutil.Process(pid)
        state = process.status()
        words = [process.name()] if state == psutil.STATUS_ZOMBIE else process.cmdline() or [process.name()]
        return f"process {pid} ({state}): {' '.join(words)}"
    except psutil.Error:
        return f"process {pid}"


def _zygotes(before: frozenset[int]) -> set[int]:
    """Return the zygotes of supervisors that had one `before`: a policy that is asked for again gets one meanwhile."""
    if (module := sys.modules.get("pyisolate.supervisor.living")) is None:
        return set()
    from pyisolate.supervisor.diagnostics import diagnose

    found: set[int] = set()
    for runtime in list(module._living):
        pools = diagnose(runtime).pools.values()
        own = {pid for pool in pools for pid in (pool.zygote_pid, *pool.policy_zygote_pids) if pid is not None}
        found |= own if own & before else set()
    return found


def _is_of_another(mount: bytes) -> bool:
    """Tell whether a test of another process made a mount, which runs beside this one and removes it by itself."""
    found = re.search(rb"/pyisolate-fuse-(\d+) ", mount)
    return found is not None and int(found[1]) != os.getpid()


def difference(before: Snapshot, after: Snapshot) -> list[str]:
    """Return what `after` holds and `before` did not, one sentence each.

    A supervisor that lives across tests (a session fixture, or the default one that a test brought to life) renews its
    pool whenever it likes: what belongs to pools is then judged by its number, and exactly at the end of the session.
    """
    born = after.default_supervisor is not None and before.default_supervisor is None
    pooled = born or bool(before.children & after.children)
    leaks = []
    if after.sandboxes > before.sandboxes:
        leaks.append(f"{after.sandboxes - before.sandboxes} sandboxes not closed")
    for fd, target in after.descriptors.items():
        if before.descriptors.get(fd) != target and not (pooled and (target == ROOT_VIEW or target.startswith(POOLED))):
            leaks.append(f"descriptor {fd}: {target}")
    for name, count in (after.guests - before.guests).items():
        if not (pooled and (name in (ROOT_VIEW, WORKSPACE) or name.startswith(POOLED))):
            leaks.append(f"{count} of {name} in a listener's table")
    if not born:
        born_since = sorted(after.children - before.children)
        expected = _zygotes(before.children) if pooled and born_since else set()
        leaks += [_describe_process(pid) for pid in born_since if pid not in expected]
        leaks += [f"cgroup {path}" for path in sorted(after.cgroups - before.cgroups)]
        # A living supervisor starts some of its threads when they are first needed.
        new = [thread for thread in after.threads - before.threads if thread.is_alive()]
        leaks += [f"thread {one.name}" for one in new if not (pooled and one.name.startswith(SUPERVISOR_THREADS))]
    more = len(after.grandchildren) - len(before.grandchildren)
    if pooled:
        ahead = sum(map(_is_ahead, after.grandchildren - before.grandchildren)) if more > POOL_SLACK else 0
        more -= POOL_SLACK + ahead
    if more > 0:
        leaks.append(f"{more} more processes below our children")
    if after.mounts != before.mounts:
        mounted = set(after.mounts.splitlines()) - set(before.mounts.splitlines())
        leaks += [f"mount {line.decode(errors='replace')}" for line in sorted(mounted) if not _is_of_another(line)]
    return leaks
