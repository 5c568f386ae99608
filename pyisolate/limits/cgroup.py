"""Control groups of a supervisor's sandboxes: one tree per supervisor, one leased group per sandbox.

Works on v2, on v1 and on the mix of both. Groups are reused, because making and removing them costs more than
resetting, and because a removed memory group lives on in the kernel while any page is still charged to it.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import signal
import socket
import subprocess
import threading
import time
from collections import deque

from ..choices import EnforcerName
from ..enforcement import Availability, Status
from ..errors import EnforcementError
from ..native.control_files import read, write
from ..native.result import advice, cause_of
from ..policy.compiled import Limits
from . import hierarchy
from .controls import Controls, Since, still_members
from .sweep import EMPTY_WITHIN_S, HOST_LEAF, make_locked, mark, remove_directories, sweep
from .turns import Turn, Weights
from .usage import Usage

log = logging.getLogger("pyisolate.limits.cgroup")

_NAME: EnforcerName = "cgroup"

#: What a sandbox left charged is reclaimed above this; below, reclaiming costs more than it gives. What stays counts
#: for the next sandbox, so a group of which more cannot be reclaimed (files in a tmpfs) is removed.
_RESIDUE_BYTES = 4 << 20
#: A waiting process stops in some 10 us; on a machine that is busy it waits for a processor first (seconds).
_FREEZES_WITHIN_S = 2.0


class CgroupLease:
    """The control group of one sandbox, in every hierarchy that the tree uses."""

    def __init__(self, tree: CgroupTree, name: str) -> None:
        self.name = name
        self._tree = tree
        self._controls = tree._controls_of(name)  # noqa: SLF001
        self._limits: tuple[int | None, int | None] = (None, None)
        self._v2_fd = -1
        self._since = Since(self._controls)
        self._held = True
        self._frozen = False
        #: its last sandbox left more charged than another one should pay for
        self._spoilt = False
        #: its place at the processor
        self.turn = tree.weights.turn_of(name, self._controls.cpu_s)
        made: list[str] = []
        try:
            for directory in self._controls.directories:
                os.mkdir(directory)
                made.append(directory)
                if os.path.dirname(directory) in tree.layout.parents:  # beside the tree, which a sweep finds it by
                    mark(directory, tree.name)
            self._controls.prepare()
            self.turn.begin()
        except OSError:
            self._close_descriptors()
            remove_directories(made)
            raise

    @property
    def v2_path(self) -> str | None:
        """Directory for cgroup-BPF attachment, or None where no v2 hierarchy is mounted. Detach before `release`."""
        return self._controls.unified

    @property
    def v2_fd(self) -> int | None:
        """Directory descriptor for CLONE_INTO_CGROUP (Linux 5.7); the lease owns it. None where there is no v2.

        On a mixed host the new process is then only in the v2 group: `add` puts it into the others.
        """
        if self.v2_path is None:
            return None
        if self._v2_fd < 0:
            self._v2_fd = os.open(self.v2_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return self._v2_fd

    def add(self, pid: int) -> None:
        """Move a process in; what it starts from then on belongs too. Raise ProcessLookupError if it is gone."""
        self._controls.add(pid)

    def apply(self, limits: Limits) -> None:
        """Set the memory limit (swap included) and the limit of tasks; None lifts them. Unchanged ones cost nothing."""
        wanted = (limits.memory_bytes, limits.processes)
        memory, processes = wanted
        try:
            if memory != self._limits[0]:
                self._controls.set_memory(memory)
            if processes != self._limits[1]:
                self._controls.set_tasks(processes)
        except OSError as error:
            raise EnforcementError(
                operation="set the limits",
                subject=f"control group {self.name}, memory {memory} bytes, processes {processes}",
                cause=error.strerror,
                errno=error.errno,
                rule="limits",
                missing="cgroup",
                hint=advice(error.errno) or "a limit below what the sandbox already uses cannot be set",
            ) from error
        self._limits = wanted

    def usage(self) -> Usage:
        """Return what the group uses now. The peak is exact from Linux 6.12 and on v1, else it is what readings saw."""
        current = self._controls.memory_bytes()
        return Usage(
            memory_bytes=current,
            memory_peak_bytes=self._since.peak_bytes(current),
            cpu_s=self.cpu_s(),
            processes=self._controls.tasks(),
            oom_kills=self.oom_kills(),
            pids_refused=self.pids_refused(),
        )

    def cpu_s(self) -> float:
        """Return the processor time of all processes that are or were in the group, in seconds."""
        return self._since.cpu_s()

    def last_cpu_s(self) -> float:
        """Return what `cpu_s` does, of a sandbox that has ended: `release` need not look again if it is all gone."""
        return self._since.last_cpu_s()

    def memory_bytes(self) -> int:
        """Return the memory in use, page cache that the group caused included."""
        return self._controls.memory_bytes()

    def oom_kills(self) -> int:
        """Return how many of its processes the kernel ended for want of memory."""
        return self._since.oom_kills()

    def pids_refused(self) -> int:
        """Return how many forks and thread starts the kernel refused at the limit of tasks."""
        return self._since.refused_tasks()

    def pids(self) -> list[int]:
        """Return the processes in the group, as this pid namespace numbers them."""
        return self._controls.pids()

    def kill(self) -> None:
        """End every process in the group; none can escape by forking. Returns before they are gone."""
        self.turn.end()
        if self._controls.kill_at_once():
            return
        # Without cgroup.kill (Linux 5.14): nothing new can start, so one round of signals reaches everybody.
        with contextlib.suppress(OSError):
            self._controls.set_tasks(0)
        self._limits = (self._limits[0], 0)
        for pid in still_members(self._controls):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def set_frozen(self, frozen: bool) -> None:
        """Stop every process of the group until it is let go on (v2 freezer, Linux 5.2). Raises OSError."""
        if frozen != self._frozen:
            self._controls.set_frozen(frozen)
            self._frozen = frozen

    def prove_freezing(self) -> bool:
        """See the processes of the group stop; False where there is no freezer. Raises OSError where they do not."""
        if not self._controls.can_freeze:
            return False
        self.set_frozen(True)
        deadline = time.monotonic() + _FREEZES_WITHIN_S
        while not self._controls.frozen():
            if time.monotonic() > deadline:
                raise OSError(errno.ETIMEDOUT, "a frozen group went on")
            time.sleep(0.0002)
        self.set_frozen(False)
        return True

    def wait_empty(self, timeout_s: float = EMPTY_WITHIN_S) -> bool:
        """Wait until no process is left; say whether that came to be."""
        deadline = time.monotonic() + timeout_s
        pause_s = 0.0005
        while not self._controls.empty():
            if time.monotonic() > deadline:
                return False
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.02)
        return True

    def release(self) -> None:
        """End what is left and give the group back. Does not wait; a second call does nothing."""
        if self._held:
            self._held = False
            self._tree._give_back(self)  # noqa: SLF001

    def _reset(self) -> bool:
        """Make an emptied group ready for the next sandbox; False while a process or zombie is still charged to it."""
        if not self._since.is_over():
            return False
        self.set_frozen(False)
        self.turn.start()
        if (left := self._controls.memory_bytes()) > _RESIDUE_BYTES:
            self._controls.reclaim()
            left = self._controls.memory_bytes()
        self._spoilt = left > _RESIDUE_BYTES
        self._since.start(left)
        return True

    def _remove(self) -> bool:
        """Remove the directories; False when a process is still in one of them."""
        self._close_descriptors()
        return remove_directories(self._controls.directories)

    def _close_descriptors(self) -> None:
        if self._v2_fd >= 0:
            os.close(self._v2_fd)
            self._v2_fd = -1
        self._controls.close()


class CgroupTree:
    """All control groups of one supervisor. Thread-safe. `open` makes it, `close` removes them all."""

    _numbers = itertools.count()

    def __init__(self, layout: hierarchy.Layout, prefix: str) -> None:
        self.layout = layout
        self.name = f"{prefix}.{os.getpid()}.{next(self._numbers)}"
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._free: deque[CgroupLease] = deque()
        self._draining: deque[CgroupLease] = deque()
        self._all: dict[str, CgroupLease] = {}
        self._serial = itertools.count()
        self._locks: list[int] = []
        self._enabled: str | None = None
        self._enabled_cpu = False
        self._vacated: str | None = None
        self._leaf_lock = -1
        self._closed = False
        #: a group's processes were seen to stop and to go on
        self.can_freeze = False
        self.weights = Weights(layout, self.name)

    @classmethod
    def open(cls, prefix: str = "pyisolate") -> tuple[CgroupTree | None, Availability]:
        """Make this supervisor's tree after removing those of dead ones; proven by a refused fork, or (None, why)."""
        layout = hierarchy.detect()
        if not layout.usable:
            return None, _unavailable(layout.reason or "memory and pids controllers are missing", layout.remedy)
        sweep(prefix, layout)
        tree = cls(layout, prefix)
        try:
            tree._make()
            proof = tree._prove()
        except OSError as error:
            tree.close()
            where = f" ({error.filename})" if error.filename else ""
            return None, _unavailable(f"{cause_of(error)}{where}", layout.remedy, error.errno)
        except EnforcementError as error:
            tree.close()
            return None, _unavailable(error.summary, layout.remedy, error.errno)
        return tree, Availability(
            enforcer=_NAME,
            status=Status.AVAILABLE,
            reason=layout.summary,
            proof=proof,
            detail={
                "parents": list(layout.parents),
                "name": tree.name,
                "freezes": tree.can_freeze,
                "turns": tree.weights.given,
                "gives_way": tree.weights.give_way,
            },
        )

    @property
    def size(self) -> int:
        """How many groups there are, held or free."""
        return len(self._all)

    def turns(self) -> list[Turn]:
        """Return the places at the processor of the groups that are held."""
        with self._lock:
            return [lease.turn for lease in self._all.values() if lease._held]  # noqa: SLF001

    def prefill(self, count: int) -> None:
        """Have at least `count` groups ready, so that `lease` makes none."""
        while len(self._free) < count:
            made = self._new()
            made._held = False  # noqa: SLF001
            with self._lock:
                self._free.append(made)

    def lease(self) -> CgroupLease:
        """Return an empty group, from the pool where possible. No limit of an earlier sandbox is relied on: `apply`."""
        self._drain()
        with self._lock:
            if self._closed:
                raise RuntimeError(f"lease, on control groups {self.name}: the tree is closed")
            found = self._free.popleft() if self._free else None
        if found is None:
            return self._new()
        found._held = True  # noqa: SLF001
        return found

    def close(self, timeout_s: float = 2.0) -> bool:
        """End everything in the tree and remove it; say whether nothing is left. In a forked copy: `abandon`."""
        if os.getpid() != self._owner:
            self.abandon()
            return True
        with self._lock:
            self._closed = True
            leases = list(self._all.values())
            self._all.clear()
            self._free.clear()
            self._draining.clear()
        for one in leases:
            one._held = False  # noqa: SLF001
            with contextlib.suppress(OSError):
                one.kill()
        deadline = time.monotonic() + timeout_s
        while leases := [one for one in leases if not one._remove()]:  # noqa: SLF001
            if time.monotonic() > deadline:
                log.warning("control groups %s: %d could not be emptied", self.name, len(leases))
                break
            time.sleep(0.002)
        removed = not leases and remove_directories(self._directories())  # a sweep finds what is beside by them
        for fd in self._locks:
            os.close(fd)
        self._locks.clear()
        self._undo()
        return removed

    def abandon(self) -> None:
        """Forget the tree without touching it: for a forked copy of the host, whose parent still owns it."""
        self._closed = True
        for one in self._all.values():
            one._close_descriptors()  # noqa: SLF001
        for fd in self._locks:
            os.close(fd)
        self._locks.clear()
        self._all.clear()
        self._free.clear()
        self._draining.clear()

    def __enter__(self) -> CgroupTree:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _directories(self) -> list[str]:
        return [f"{parent}/{self.name}" for parent in self.layout.parents]

    def _controls_of(self, name: str) -> Controls:
        return Controls(self.layout, self.name, name)

    def _make(self) -> None:
        self._enable_parent()
        for directory in self._directories():
            self._locks.append(make_locked(directory))
        full = self.layout.memory
        if full is not None and full.version == 2:
            write(f"{full.parent}/{self.name}/cgroup.subtree_control", "+memory +pids")
        self.weights.prepare()

    def _enable_parent(self) -> None:
        place = self.layout.memory
        if place is None or not place.enable:
            return
        if place.vacate:
            self._vacated = f"{place.parent}/{self.name}{HOST_LEAF}"
            # Locked like the tree, so that no sweep removes it before this process is in it.
            self._leaf_lock = make_locked(self._vacated)
            write(f"{self._vacated}/cgroup.procs", str(self._owner))
        write(f"{place.parent}/cgroup.subtree_control", "+memory +pids")
        if self.layout.weight is place and "cpu" not in read(f"{place.parent}/cgroup.subtree_control").split():
            with contextlib.suppress(OSError):
                write(f"{place.parent}/cgroup.subtree_control", "+cpu")
                self._enabled_cpu = True
        self._enabled = place.parent

    def _undo(self) -> None:
        """Leave the parent as it was found, unless another tree uses its controllers (the kernel says EBUSY)."""
        if self._enabled is not None:
            with contextlib.suppress(OSError):
                write(f"{self._enabled}/cgroup.subtree_control", "-memory -pids")
            if self._enabled_cpu:
                with contextlib.suppress(OSError):
                    write(f"{self._enabled}/cgroup.subtree_control", "-cpu")
            if self._vacated is not None:
                with contextlib.suppress(OSError):
                    write(f"{self._enabled}/cgroup.procs", str(self._owner))
                # While this process has to stay in its leaf, the leaf stays locked.
                if remove_directories([self._vacated]):
                    os.close(self._leaf_lock)
        self._enabled = self._vacated = None

    def _prove(self) -> str:
        """See the kernel refuse a fork at the limit. Raise OSError when it does not: fail closed."""
        probe = self.lease()
        try:
            probe.apply(Limits(memory_bytes=64 << 20, processes=1))
            self.weights.give_way = probe.turn.prove()
            # The shell waits for its line until it has been moved; then its fork must fail. A socket of our own:
            # Popen leaves a pipe open when it cannot have /dev/null beside it.
            ours, theirs = socket.socketpair()
            with ours, theirs:
                command, end = ["/bin/sh", "-c", "read line; (exit 0); exit 0"], theirs.fileno()
                shell = subprocess.Popen(command, stdin=end, stdout=end, stderr=end, env={}, start_new_session=True)
                try:
                    probe.add(shell.pid)
                    self.can_freeze = probe.prove_freezing()
                    with contextlib.suppress(BrokenPipeError):
                        ours.sendall(b"\n")
                    shell.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    raise OSError(errno.ETIMEDOUT, "the shell that was to fork did not end") from None
                finally:
                    shell.kill()
                    shell.wait()
            if probe.pids_refused() < 1:
                raise OSError(errno.ENOTSUP, "a fork above pids.max was not refused")
            return f"a fork above pids.max was refused ({probe.pids_refused()} counted)"
        finally:
            probe.release()

    def _new(self) -> CgroupLease:
        made = CgroupLease(self, f"s{next(self._serial)}")
        with self._lock:
            self._all[made.name] = made
        return made

    def _give_back(self, lease: CgroupLease) -> None:
        if os.getpid() == self._owner:
            self._keep(lease, ends=True)
            self._drain()

    def _drain(self) -> None:
        """Move what has become empty back to the pool. Zombies are charged too, so that takes until they are reaped."""
        if self._draining:
            with self._lock:
                waiting, self._draining = self._draining, deque()
            for lease in waiting:
                self._keep(lease)

    def _keep(self, lease: CgroupLease, *, ends: bool = False) -> None:
        """Offer a group to the next sandbox, at once or later. `ends`: what lives there now is to end."""
        try:
            ready = not lease._spoilt and lease._reset()  # noqa: SLF001
        except OSError:
            # Another process removed it: forget it, and make another when one is needed.
            lease._remove()  # noqa: SLF001
            self._forget(lease)
            return
        if lease._spoilt:  # noqa: SLF001
            # Its charges stay with what is left of it in the kernel, and with its parents.
            ready = False
            if lease._remove():  # noqa: SLF001
                self._forget(lease)
                return
        if ends and not ready:
            with contextlib.suppress(OSError):
                if not lease._controls.empty():  # noqa: SLF001 - else zombies
                    lease.kill()
        with self._lock:
            if not self._closed:
                (self._free if ready else self._draining).append(lease)

    def _forget(self, lease: CgroupLease) -> None:
        with self._lock:
            self._all.pop(lease.name, None)


def _unavailable(reason: str, remedy: str, errno: int | None = None) -> Availability:
    return Availability(enforcer=_NAME, status=Status.UNAVAILABLE, reason=reason, remedy=remedy, errno=errno)
