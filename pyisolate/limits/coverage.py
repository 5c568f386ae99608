"""How far each limit holds, by isolation and by what the host offers: the one place that says so."""

from __future__ import annotations

from typing import Literal, NamedTuple

from ..choices import EnforcerName, Isolation
from ..enforcement import Availability
from ..policy.compiled import Limits

#: Limit -> the field of `Limits` that holds it.
FIELDS = {
    "wall": "wall_s",
    "cpu": "cpu_s",
    "memory": "memory_bytes",
    "processes": "processes",
    "open_files": "open_files",
    "file_size": "file_size_bytes",
    "disk": "disk_bytes",
    "files": "files",
    "output": "output_bytes",
    "messages": "messages",
}


class LimitCoverage(NamedTuple):
    """Who holds a limit, how far, and what is not held."""

    coverage: Literal["full", "partial", "none"]
    enforcers: tuple[EnforcerName, ...] = ()
    gap: str = ""


_STOPS = "native code that never returns to the interpreter goes on"
_THREADS_GO_ON = "threads of a process cannot be stopped one by one"
_ON_THREAD = {
    "wall": LimitCoverage("partial", ("supervisor",), f"the request ends in time; {_STOPS}"),
    "cpu": LimitCoverage("partial", ("watchdog",), f"threads that the guest starts are not counted; {_STOPS}"),
    "output": LimitCoverage(
        "partial", ("supervisor",), "what the guest, or a thread of it, writes to descriptors 1 and 2 is not seen"
    ),
    "messages": LimitCoverage("full", ("supervisor",)),
    "memory": LimitCoverage("none", (), "a sandbox thread shares the host's memory"),
    "processes": LimitCoverage("none", (), "a sandbox thread starts threads and processes as the host does"),
    "open_files": LimitCoverage("none", (), "a sandbox thread shares the host's descriptors"),
    "file_size": LimitCoverage("none", (), "RLIMIT_FSIZE belongs to the whole process (setrlimit(2))"),
    "workspace": LimitCoverage("none", (), "a sandbox thread has no workspace"),
    "disk": LimitCoverage("none", (), "a sandbox thread has no workspace"),
    "files": LimitCoverage("none", (), "a sandbox thread has no workspace"),
}


def limit_coverage(limit: str, isolation: Isolation, *, has_cgroup: bool, cgroup_reason: str) -> LimitCoverage:
    """Return how far a limit holds. `has_cgroup`: the cell has a control group; else `cgroup_reason` says why not."""
    if isolation == "thread":
        return _ON_THREAD[limit]
    if limit in ("wall", "output", "messages"):
        return LimitCoverage("full", ("supervisor",))
    if limit in ("open_files", "file_size"):
        return LimitCoverage("full", ("rlimit",))
    if limit in ("workspace", "disk", "files"):
        return LimitCoverage("full", ("root view",))
    if has_cgroup:
        return LimitCoverage("full", ("cgroup", "rlimit", "watchdog"))
    return LimitCoverage("partial", ("rlimit", "watchdog"), f"no cgroup: {cgroup_reason}; sums are sampled")


def unheld(limits: Limits, isolation: Isolation) -> list[str]:
    """Return a line for each limit that is set and that this isolation cannot hold."""
    if isolation != "thread":
        return []
    lines = []
    for limit, field in FIELDS.items():
        held, value = _ON_THREAD[limit], getattr(limits, field)
        if held.coverage == "none" and value is not None:
            lines.append(f"limits.{limit}: {value}: {held.gap}")
    if limits.between_requests == "freeze":
        lines.append(f"limits.between_requests: freeze: {_THREADS_GO_ON}")
    return lines


def cannot_freeze(limits: Limits, control_groups: Availability | None) -> str:
    """Say why a cell cannot be stopped between requests although its limits want it; empty where it can."""
    if limits.between_requests != "freeze" or control_groups is None:
        return ""
    if not control_groups.usable:
        return f"limits.between_requests: freeze: cgroup is {control_groups.status}: {control_groups.reason}"
    if not control_groups.detail.get("freezes"):
        return "limits.between_requests: freeze: there is no v2 hierarchy of control groups, which has the freezer"
    return ""
