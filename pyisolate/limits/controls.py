"""The control files of one group: which file says what, on v1 and on v2.

Sources: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/{memory,pids,cpuacct}.rst.
"""

from __future__ import annotations

import contextlib
import os

from ..native.control_files import read, write, write_each
from .hierarchy import Layout

#: v1's word for "unlimited" (cgroup-v1/memory.rst, section 3.2).
_V1_UNLIMITED = "-1"


def _field(path: str, name: str) -> int:
    _, found, rest = f"\n{read(path)}".partition(f"\n{name} ")
    return int(rest.partition("\n")[0]) if found else 0


def spent_s(directory: str, version: int) -> float:
    """Return the processor time of all that ever ran in a group or below it, in seconds. `version`: of cgroups."""
    if version == 2:
        return _field(f"{directory}/cpu.stat", "usage_usec") / 1e6
    return int(read(f"{directory}/cpuacct.usage")) / 1e9


class Controls:
    """One group's control files, in each place of a layout."""

    def __init__(self, layout: Layout, tree: str, name: str) -> None:
        if layout.memory is None or layout.pids is None or layout.cpu is None:
            raise ValueError("control groups need a usable layout")
        at = {parent: layout.group(parent, tree, name) for parent in layout.parents}
        self.unified = None if layout.unified is None else at[layout.unified.parent]
        counts = layout.pids.parent
        #: that which counts tasks first: who is in any other was moved into it before
        self.directories = [at[parent] for parent in sorted(layout.parents, key=lambda one: one != counts)]
        self._memory = at[layout.memory.parent]
        self._memory_v2 = layout.memory.version == 2
        self._pids_v2 = layout.pids.version == 2
        self._pids = at[layout.pids.parent]
        self._cpu = at[layout.cpu.parent]
        self._cpu_v2 = layout.cpu.version == 2
        self._swap = False
        self._peak_fd = -1

    def prepare(self) -> None:
        """Set what never changes; call once the directories exist."""
        if self._memory_v2:
            # One process of a sandbox without memory is no sandbox: all of it ends (Linux 4.19).
            with contextlib.suppress(OSError):
                write(f"{self._memory}/memory.oom.group", "1")
            with contextlib.suppress(OSError):
                write(f"{self._memory}/memory.swap.max", "0")
            return
        self._swap = os.path.exists(f"{self._memory}/memory.memsw.limit_in_bytes")
        if not self._swap:
            # Kernels without swap accounting (swapaccount=0): keep the group out of swap instead.
            with contextlib.suppress(OSError):
                write(f"{self._memory}/memory.swappiness", "0")

    def close(self) -> None:
        """Close what is held open."""
        if self._peak_fd >= 0:
            os.close(self._peak_fd)
            self._peak_fd = -1

    def set_memory(self, limit_bytes: int | None) -> None:
        """Bound memory and swap together; None lifts the bound."""
        if self._memory_v2:
            write(f"{self._memory}/memory.max", "max" if limit_bytes is None else str(limit_bytes))
            return
        text = _V1_UNLIMITED if limit_bytes is None else str(limit_bytes)
        files = [f"{self._memory}/memory.limit_in_bytes"]
        if self._swap:
            files.append(f"{self._memory}/memory.memsw.limit_in_bytes")
        try:
            # memory must never be above memory+swap, so the order depends on the direction: down first, else up.
            for path in files:
                write(path, text)
        except OSError:
            for path in reversed(files):
                write(path, text)

    def set_tasks(self, limit: int | None) -> None:
        """Bound processes and threads together; None lifts the bound."""
        write(f"{self._pids}/pids.max", "max" if limit is None else str(limit))

    def memory_bytes(self) -> int:
        """Return the memory charged to the group, swap included on v1."""
        if self._memory_v2:
            return int(read(f"{self._memory}/memory.current"))
        return int(read(f"{self._memory}/memory.{'memsw.' if self._swap else ''}usage_in_bytes"))

    def memory_peak_bytes(self) -> int:
        """Return the highest use since `reset_peak`, or since the group was made where that cannot be reset."""
        if not self._memory_v2:
            return int(read(f"{self._memory}/memory.{'memsw.' if self._swap else ''}max_usage_in_bytes"))
        if self._peak_fd >= 0:
            return int(os.pread(self._peak_fd, 64, 0))
        try:
            return int(read(f"{self._memory}/memory.peak"))
        except OSError:
            # memory.peak is there since Linux 5.19.
            return 0

    def reset_peak(self) -> bool:
        """Let the peak start anew, where the kernel can: v1; v2 since Linux 6.12, for the descriptor that wrote.

        True where it is at most what was charged before.
        """
        try:
            if not self._memory_v2:
                write(f"{self._memory}/memory.{'memsw.' if self._swap else ''}max_usage_in_bytes", "0")
                return True
            if self._peak_fd < 0:
                self._peak_fd = os.open(f"{self._memory}/memory.peak", os.O_RDWR | os.O_CLOEXEC)
            os.write(self._peak_fd, b"reset\n")
        except OSError:
            return False
        return True

    def reclaim(self) -> None:
        """Drop page cache that is charged to the empty group."""
        with contextlib.suppress(OSError):
            if self._memory_v2:
                # Linux 5.19; EAGAIN when less could be reclaimed than was asked for.
                write(f"{self._memory}/memory.reclaim", str(self.memory_bytes()))
            else:
                write(f"{self._memory}/memory.force_empty", "0")

    def cpu_s(self) -> float:
        """Return the processor time of all that ever ran in the group, in seconds."""
        return spent_s(self._cpu, 2 if self._cpu_v2 else 1)

    def tasks(self) -> int:
        """Return the number of living processes and threads."""
        return read(f"{self._pids}/{'cgroup.threads' if self._pids_v2 else 'tasks'}").count("\n")

    def charged_tasks(self) -> int:
        """Return the number of processes and threads that count for the limit, zombies included."""
        return int(read(f"{self._pids}/pids.current"))

    def refused_tasks(self) -> int:
        """Return how often a fork or a thread start was refused."""
        return _field(f"{self._pids}/pids.events", "max")

    def oom_kills(self) -> int:
        """Return how many processes were ended for want of memory (v1: since Linux 4.13)."""
        file = "memory.events" if self._memory_v2 else "memory.oom_control"
        return _field(f"{self._memory}/{file}", "oom_kill")

    def pids(self) -> list[int]:
        """Return the processes in the group. Those of a pid namespace that cannot be seen from here are left out."""
        return [pid for pid in map(int, read(f"{self._pids}/cgroup.procs").split()) if pid > 0]

    def add(self, pid: int) -> None:
        """Move a process into each of the directories. Raises ProcessLookupError where it is gone."""
        write_each([f"{directory}/cgroup.procs" for directory in self.directories], str(pid))

    def empty(self) -> bool:
        """Say whether no living process is in any of the group's directories."""
        return not any(read(f"{directory}/cgroup.procs").strip() for directory in self.directories)

    @property
    def can_freeze(self) -> bool:
        """Say whether there is a group of the v2 hierarchy, which can be frozen (Linux 5.2)."""
        return self.unified is not None and os.path.exists(f"{self.unified}/cgroup.freeze")

    def set_frozen(self, frozen: bool) -> None:
        """Stop every process of the group, or let them go on. Returns before they have stopped; they can be killed."""
        write(f"{self.unified}/cgroup.freeze", str(int(frozen)))

    def frozen(self) -> bool:
        """Say whether every process of the group has stopped."""
        return _field(f"{self.unified}/cgroup.events", "frozen") == 1

    def kill_at_once(self) -> bool:
        """End all processes by cgroup.kill (Linux 5.14); False where that is not there."""
        if self.unified is None:
            return False
        try:
            write(f"{self.unified}/cgroup.kill", "1")
        except OSError:
            return False
        return True


class Since:
    """What a group's counters say of the sandbox that has it now: they go on from what those before it did."""

    def __init__(self, controls: Controls) -> None:
        self._controls = controls
        self._cpu_s, self._oom_kills, self._refused, self._peak = 0.0, 0, 0, 0
        self._peak_seen = 0
        #: the last reading of processor time there can be
        self._last_s: float | None = None

    def cpu_s(self) -> float:
        """Return the processor time of all that is or was in the group."""
        return max(0.0, self._controls.cpu_s() - self._cpu_s)

    def oom_kills(self) -> int:
        """Return how many processes were ended for want of memory."""
        return self._controls.oom_kills() - self._oom_kills

    def refused_tasks(self) -> int:
        """Return how often a fork or a thread start was refused."""
        return self._controls.refused_tasks() - self._refused

    def peak_bytes(self, current: int) -> int:
        """Return the highest use of memory; `current` is that of now."""
        self._peak_seen = max(self._peak_seen, current)
        peak = self._controls.memory_peak_bytes()
        # A counter that cannot be reset tells about this tenant only once it has risen.
        return max(self._peak_seen, peak if peak > self._peak else 0)

    def last_cpu_s(self) -> float:
        """Return what `cpu_s` does, of a sandbox that has ended: `is_over` need not look again where all is gone."""
        gone = self._controls.charged_tasks() == 0  # before the reading, which is the last one then
        read_s = self._controls.cpu_s()
        self._last_s = read_s if gone else None
        return max(0.0, read_s - self._cpu_s)

    def is_over(self) -> bool:
        """True once no process or zombie is charged to the group; a task in any hierarchy is counted there."""
        return self._last_s is not None or self._controls.charged_tasks() == 0

    def start(self, left: int) -> None:
        """Count for the next sandbox from here on: the last one is over, and `left` bytes are charged yet."""
        last_s, self._last_s = self._last_s, None
        self._cpu_s = self._controls.cpu_s() if last_s is None else last_s
        # where the peak starts anew, it starts at what is left
        self._peak = left if self._controls.reset_peak() else self._controls.memory_peak_bytes()
        self._oom_kills, self._refused = self._controls.oom_kills(), self._controls.refused_tasks()
        self._peak_seen = 0


def still_members(controls: Controls) -> list[int]:
    """Return pids that are members for certain: a pidfd pins each number while the list is read again."""
    pinned: dict[int, int] = {}
    try:
        for pid in controls.pids():
            with contextlib.suppress(OSError):
                pinned[pid] = os.pidfd_open(pid)
        return [pid for pid in controls.pids() if pid in pinned]
    finally:
        for fd in pinned.values():
            os.close(fd)
