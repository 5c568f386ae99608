"""Resource limits of one process: what a policy's limits come to, and their application inside the cell.

They are a second line: RLIMIT_NPROC counts per user and user namespace, RLIMIT_FSIZE per file, RLIMIT_CPU and
RLIMIT_DATA per process (getrlimit(2)). Sums over a sandbox are the work of control groups and the watchdog.
"""

from __future__ import annotations

import functools
import math
import resource
from collections.abc import Mapping

from ..policy.compiled import Limits

#: Descriptors that a cell holds for itself: stdio, the wire, the listener's end, the import system's temporary ones.
CELL_DESCRIPTORS = 8

#: RLIMIT_CPU has whole seconds and knows nothing of other processes: it fires after the watchdog should have.
_CPU_SLACK_S = 1

_MIB = 1 << 20
_MEMLOCK_BYTES = 64 << 10
_PENDING_SIGNALS = 256

Table = dict[int, tuple[int, int]]


def compute(
    limits: Limits,
    *,
    cgroup_memory: bool,
    own_user_namespace: bool,
    cell_descriptors: int = CELL_DESCRIPTORS,
) -> Table:
    """Return {resource: (soft, hard)}, to be applied in the cell. Pure: it asks the kernel nothing.

    With `cgroup_memory` no address-space limit is set: it would refuse mappings that are never touched. NPROC is set
    in an own user namespace only (since Linux 5.14 it is counted in each), because elsewhere it counts every process
    of that user. It leaves a margin above the limit: the pids controller, which counts its refusals, must refuse
    first, and without one the watchdog must be able to see the excess.
    """
    table: Table = {
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_MEMLOCK: (_MEMLOCK_BYTES, _MEMLOCK_BYTES),
        resource.RLIMIT_MSGQUEUE: (0, 0),
        resource.RLIMIT_SIGPENDING: (_PENDING_SIGNALS, _PENDING_SIGNALS),
        resource.RLIMIT_NICE: (0, 0),
        resource.RLIMIT_RTPRIO: (0, 0),
    }
    if limits.open_files is not None:
        most = limits.open_files + cell_descriptors
        table[resource.RLIMIT_NOFILE] = (most, most)
    if limits.file_size_bytes is not None:
        table[resource.RLIMIT_FSIZE] = (limits.file_size_bytes, limits.file_size_bytes)
    if limits.processes is not None and own_user_namespace:
        most = limits.processes + process_margin(limits.processes)
        table[resource.RLIMIT_NPROC] = (most, most)
    if limits.cpu_s is not None:
        soft = math.ceil(limits.cpu_s) + _CPU_SLACK_S
        # SIGXCPU at the soft limit can be ignored; SIGKILL at the hard one cannot.
        table[resource.RLIMIT_CPU] = (soft, soft + 1)
    if limits.memory_bytes is not None and not cgroup_memory:
        table |= _memory_backstop(limits.memory_bytes)
    return table


def process_margin(processes: int) -> int:
    """Return how far RLIMIT_NPROC stays above the limit of tasks."""
    return max(4, processes // 4)


def _memory_backstop(memory_bytes: int) -> Table:
    # DATA is private writable memory (counted with mappings since Linux 4.7): a guest that asks for far too much gets
    # a MemoryError at once. AS also bounds shared anonymous memory, at a distance that libraries' reservations need.
    data = 2 * memory_bytes + 64 * _MIB
    space = 4 * memory_bytes + 1024 * _MIB
    return {resource.RLIMIT_DATA: (data, data), resource.RLIMIT_AS: (space, space)}


def triples(limits: Limits, *, cgroup_memory: bool, own_user_namespace: bool) -> tuple[tuple[int, int, int], ...]:
    """Return (resource, soft, hard) for a cell of this process: none is above this process's own hard limit.

    Those of `COMMON_RLIMITS` are left out.
    """
    table = _of_policy(limits, cgroup_memory, own_user_namespace)
    return tuple((which, *_within_present(which, pair)) for which, pair in table)


@functools.lru_cache(maxsize=64)
def _of_policy(
    limits: Limits, cgroup_memory: bool, own_user_namespace: bool
) -> tuple[tuple[int, tuple[int, int]], ...]:
    """Return what `compute` does, but for what is the same under every policy."""
    table = compute(limits, cgroup_memory=cgroup_memory, own_user_namespace=own_user_namespace)
    already = {which for which, _soft, _hard in COMMON_RLIMITS}
    return tuple(one for one in table.items() if one[0] not in already)


def apply(table: Mapping[int, tuple[int, int]]) -> None:
    """Set the limits of this process; a hard limit that is already lower stays. Cannot be undone without privileges."""
    for which, pair in table.items():
        wanted = _within_present(which, pair)
        if wanted != resource.getrlimit(which):  # in a cell the listener is asked about each change
            resource.setrlimit(which, wanted)


def _within_present(which: int, pair: tuple[int, int]) -> tuple[int, int]:
    soft, hard = pair
    _, present = resource.getrlimit(which)
    if present != resource.RLIM_INFINITY:
        hard = min(hard, present)
    if which == resource.RLIMIT_CPU and soft >= hard > 1:
        soft = hard - 1  # at the hard limit comes SIGKILL, which does not say why; a second before it SIGXCPU
    return min(soft, hard), hard


def within_host(which: int, allowed: int | None) -> int | None:
    """Return what cells really get of a limit, None for none: no more than this process's own hard limit."""
    hard = resource.getrlimit(which)[1]
    return allowed if allowed is None or hard == resource.RLIM_INFINITY else min(allowed, hard)


def hard_limits_in_tables() -> tuple[int, ...]:
    """Return this process's own hard limits on what the listener's tables hold: open files, and a file's size."""
    return tuple(resource.getrlimit(which)[1] for which in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE))


def host_cpu_s() -> int | None:
    """Return the processor time (seconds) after which this process's own hard limit ends a cell, None for never."""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    return None if hard == resource.RLIM_INFINITY else max(1, hard - 1)


#: What is the same under every policy: set when a cell is forked, so that hand-out has less to do.
COMMON_RLIMITS = tuple(
    (which, soft, hard)
    for which, (soft, hard) in compute(
        Limits(wall_s=None, cpu_s=None, memory_bytes=None, processes=None, open_files=None, file_size_bytes=None),
        cgroup_memory=True,
        own_user_namespace=False,
    ).items()
)
