"""What a sandbox uses: one reading, and readings of a process tree for hosts without control groups.

psutil is imported for these alone.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    import psutil


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """One reading, summed over the sandbox's living processes. `source` is `cgroup` or `tree`."""

    memory_bytes: int = 0
    memory_peak_bytes: int = 0
    cpu_s: float = 0.0
    processes: int = 0
    #: processes that the kernel ended for want of memory; always 0 for a tree, where no kernel counter exists
    oom_kills: int = 0
    #: forks and thread starts that the kernel refused; always 0 for a tree
    pids_refused: int = 0
    source: str = "cgroup"

    def plus(self, memory_bytes: int) -> Usage:
        """Return the reading with memory added that no process of the sandbox maps."""
        return msgspec.structs.replace(
            self,
            memory_bytes=self.memory_bytes + memory_bytes,
            memory_peak_bytes=max(self.memory_peak_bytes, self.memory_bytes + memory_bytes),
        )


#: What no machine exceeds: bytes that its processors clear in a second, and names made one after the other.
_FASTEST_FILL = 64e9
_FASTEST_NAME_S = 0.2e-6


class Filling(msgspec.Struct, frozen=True):
    """How full a workspace is, in bytes; `exhausted` where a write, or a new name, finds no room."""

    used: int
    size: int
    exhausted: bool
    #: names that there is room for
    names: int = 0
    #: bytes that the policy's own key grants; `size` is less where limits.disk is. 0: not known
    granted: int = 0

    @property
    def fills_s(self) -> float:
        """Seconds that a guest needs at least to fill the rest: no kernel clears 64 GB/s, nor makes names in 0.2 us."""
        return min((self.size - self.used) / _FASTEST_FILL, self.names * _FASTEST_NAME_S)


class TreeReader:
    """Read what a process and all of its descendants use, from /proc.

    With `init`, a cell's: all that is below that process, where orphans of the cell go. The init itself is left out:
    its memory is the zygote's.

    Memory is proportional (PSS), so pages that cells share with the zygote are not counted again in each; where the
    kernel refuses PSS it is resident minus file-backed pages. `memory_limit_bytes` lets a reading stop at the cheap
    resident sum while that stays below the limit. Processor time counts reaped children, and a lower bound for those
    that died unreaped since the last reading. Pages of memory files that no process maps are not seen: control groups
    see them.
    """

    def __init__(self, pid: int, *, memory_limit_bytes: int | None = None, init: int | None = None) -> None:
        import psutil

        root = pid if init is None else init
        try:
            self._root = psutil.Process(root)
        except psutil.NoSuchProcess as error:
            raise ProcessLookupError(f"process {root} is gone") from error
        self.memory_limit_bytes = memory_limit_bytes
        self._without_root = init is not None and init != pid
        self._known = {root: self._root}
        self._last_s: dict[int, float] = {}
        self._lost_s = 0.0
        self._cpu_s = 0.0
        self._peak_bytes = 0

    def read(self) -> Usage:
        """Return one reading. Raise ProcessLookupError when the whole tree is gone."""
        living = self._living()
        if not living:
            raise ProcessLookupError(f"no process of the tree below {self._root.pid} is left")
        memory_bytes = self._memory(living)
        self._peak_bytes = max(self._peak_bytes, memory_bytes)
        return Usage(
            memory_bytes=memory_bytes,
            memory_peak_bytes=self._peak_bytes,
            cpu_s=self._cpu(living),
            processes=self._tasks(living),
            source="tree",
        )

    def is_running(self) -> bool:
        """Say whether the root process is the one that this reader was made for."""
        return self._root.is_running()

    def _living(self) -> list[psutil.Process]:
        """Return the root and its descendants; processes seen before keep their object and so their identity."""
        import psutil

        found: dict[int, psutil.Process] = {}
        if not self._root.is_running():
            self._known = {}
            return []
        for pid in descendants(self._root.pid)[1 if self._without_root else 0 :]:
            process = self._known.get(pid)
            try:
                # A reused pid has another creation time: is_running() compares it.
                if process is None or not process.is_running():
                    process = psutil.Process(pid)
                found[pid] = process
            except psutil.NoSuchProcess:
                continue
        self._known = found
        return list(found.values())

    def _cpu(self, living: list[psutil.Process]) -> float:
        import psutil

        reaped_s, now = 0.0, {}
        for process in (*living, self._root) if self._without_root else living:
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                now[process.pid] = times.user + times.system
                reaped_s += times.children_user + times.children_system
        # A parent that ignores SIGCHLD never gets its children's time (getrusage(2)), so what vanished is kept here. It
        # may also be in `reaped_s`: both are lower bounds, the larger one is the better.
        self._lost_s += sum(spent for pid, spent in self._last_s.items() if pid not in now)
        self._last_s = now
        own_s = sum(now.values())
        self._cpu_s = max(self._cpu_s, own_s + reaped_s, own_s + self._lost_s)
        return self._cpu_s

    def _memory(self, living: list[psutil.Process]) -> int:
        resident = sum(_resident(process.pid)[0] for process in living)
        if self.memory_limit_bytes is not None and resident <= self.memory_limit_bytes:
            return resident
        return sum(_proportional(process) for process in living)

    @staticmethod
    def _tasks(living: list[psutil.Process]) -> int:
        import psutil

        total = 0
        for process in living:
            with contextlib.suppress(psutil.Error), process.oneshot():
                if process.status() != psutil.STATUS_ZOMBIE:
                    total += process.num_threads()
        return total


_readers: OrderedDict[int, TreeReader] = OrderedDict()
_readers_lock = threading.Lock()
_MOST_READERS = 4096


def process_tree_usage(pid: int, *, memory_limit_bytes: int | None = None) -> Usage:
    """Return one reading of a process tree; what earlier readings of the same tree saw is remembered.

    Raise ProcessLookupError when it is gone. `memory_limit_bytes` spares the dear part of a reading (see TreeReader).
    """
    with _readers_lock:
        reader = _readers.get(pid)
        # The pid may be another process's by now.
        if reader is None or not reader.is_running():
            _readers.pop(pid, None)
            reader = _readers[pid] = TreeReader(pid, memory_limit_bytes=memory_limit_bytes)
        reader.memory_limit_bytes = memory_limit_bytes
        _readers.move_to_end(pid)
        if len(_readers) > _MOST_READERS:
            _readers.popitem(last=False)
    return reader.read()


def descendants(pid: int) -> list[int]:
    """Return a pid and all pids below it. Needs no walk over all of /proc where the kernel lists children."""
    if not os.path.exists(f"/proc/{pid}/task/{pid}/children"):
        import psutil

        # CONFIG_PROC_CHILDREN is off, or the process is gone.
        try:
            return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
        except psutil.NoSuchProcess:
            return []
    found, queue = [pid], [pid]
    while queue:
        for child in _children(queue.pop()):
            found.append(child)
            queue.append(child)
    return found


def descriptor_slots(pid: int) -> int | None:
    """Return how many descriptors a process's table has had room for (proc(5), FDSize); None when it is gone.

    The table never shrinks: one that was full once has at least as many slots as RLIMIT_NOFILE allows.
    """
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", "rb") as file:
        for line in file:
            if line.startswith(b"FDSize:"):
                return int(line.split()[1])
    return None


def soft_limits(pid: int) -> dict[str, int]:
    """Return the soft resource limits of a process that are set, by the kernel's names for them (proc(5), limits)."""
    found = {}
    with contextlib.suppress(OSError), open(f"/proc/{pid}/limits") as file:
        for line in file:
            soft = line[26:46].strip()  # "%-25s %-20s %-20s"
            if soft.isdecimal():
                found[line[:25].strip()] = int(soft)
    return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                found += map(int, file.read().split())
    return found


_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def _resident(pid: int) -> tuple[int, int]:
    """Return (resident, resident without file-backed and shared pages) in bytes; zeros for a process that is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            _, resident, shared = map(int, file.read().split()[:3])
    except (OSError, ValueError):
        return 0, 0
    return resident * _PAGE_BYTES, (resident - shared) * _PAGE_BYTES


def _proportional(process: psutil.Process) -> int:
    import psutil

    try:
        return int(process.memory_full_info().pss)
    except (psutil.Error, OSError):
        # smaps_rollup needs ptrace rights (proc(5)): not given for a process that is not dumpable.
        return _resident(process.pid)[1]
