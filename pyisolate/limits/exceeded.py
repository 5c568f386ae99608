"""Which limit a reading is past, and the error that says so."""

from __future__ import annotations

import msgspec

from .. import errors
from ..policy.compiled import Limits, names_in
from .usage import Filling, Usage

_ERRORS: dict[str, type[errors.LimitExceeded]] = {
    "wall": errors.TimeoutError,
    "cpu": errors.CPUExceeded,
    "memory": errors.MemoryExceeded,
    "processes": errors.ProcessesExceeded,
    "open_files": errors.OpenFilesExceeded,
    "file_size": errors.FileSizeExceeded,
    "workspace": errors.WorkspaceExceeded,
    "disk": errors.DiskExceeded,
    "files": errors.FilesExceeded,
    "output": errors.OutputExceeded,
    "messages": errors.MessagesExceeded,
}

_UNITS = {
    "wall": "seconds",
    "cpu": "seconds",
    "memory": "bytes",
    "file_size": "bytes",
    "workspace": "bytes",
    "disk": "bytes",
    "files": "files, directories and links",
    "output": "bytes",
    "processes": "processes and threads",
    "open_files": "descriptors",
    "messages": "messages",
}

_BEFORE = {
    "wall": "look for a wait that never ends",
    "cpu": "look for a loop that never ends",
    "memory": "process the data in pieces",
    "processes": "start fewer processes and threads",
    "open_files": "close files after use",
    "file_size": "write less, or to several files",
    "workspace": "remove files that are no longer needed",
    "disk": "remove files that are no longer needed",
    "files": "remove files that are no longer needed",
    "output": "print less",
    "messages": "post less often",
}


class ExceededLimit(msgspec.Struct, frozen=True, kw_only=True):
    """A limit that was passed. `used` and `allowed` share the limit's unit; `cause` adds what the kernel did.

    `hint` takes the place of the usual one.
    """

    limit: str
    used: float
    allowed: float
    cause: str = ""
    hint: str = ""

    def to_error(self, subject: str = "sandbox") -> errors.LimitExceeded:
        """Return the public exception for this limit, its text naming `subject`."""
        text = f"limit {self.limit}, on {subject}: used {self._amount(self.used)} of {self._amount(self.allowed)}"
        if self.cause:
            text = f"{text}; {self.cause}"
        kind = _ERRORS.get(self.limit, errors.LimitExceeded)
        key = self.limit if self.limit == "workspace" else f"limits.{self.limit}"
        hint = self.hint or f"{_BEFORE.get(self.limit, 'use less')}, or raise {key} in the policy"
        return kind(text, limit=self.limit, used=self.used, allowed=self.allowed, hint=hint)

    def _amount(self, value: float) -> str:
        unit = _UNITS.get(self.limit, "")
        if unit == "bytes" and value >= 1 << 20:
            return f"{value / (1 << 20):.1f} MiB"
        return f"{value:.3g} {unit}" if unit == "seconds" else f"{value:.0f} {unit}"


def filled(limits: Limits, filling: Filling) -> ExceededLimit:
    """Return the limit that a full workspace stands for: its own size, or a smaller one of what may be written.

    Raising the one that is named is what helps: where both are the same, the workspace has to be larger first.
    """
    own = filling.granted or filling.size
    if not filling.names:
        if limits.files is not None and limits.files < names_in(own):
            return ExceededLimit(limit="files", used=limits.files, allowed=limits.files)
        return ExceededLimit(limit="workspace", used=filling.used, allowed=own)
    return ExceededLimit(limit=of_bytes(limits, own)[0], used=filling.used, allowed=filling.size)


def of_bytes(limits: Limits, workspace_bytes: int) -> tuple[str, int]:
    """Return which limit bounds the bytes of a workspace of this size, and how many it allows."""
    if limits.disk_bytes is not None and limits.disk_bytes < workspace_bytes:
        return "disk", limits.disk_bytes
    return "workspace", workspace_bytes


def exceeded(limits: Limits, usage: Usage) -> ExceededLimit | None:
    """Return the limit that this reading is past, or None. What the kernel has counted comes first: it is exact."""
    memory, processes = limits.memory_bytes, limits.processes
    if usage.oom_kills and memory is not None:
        return ExceededLimit(
            limit="memory",
            used=usage.memory_peak_bytes,
            allowed=memory,
            cause=_oom_cause(usage.memory_peak_bytes, memory),
        )
    if usage.pids_refused and processes is not None:
        return ExceededLimit(
            limit="processes",
            used=processes + 1,
            allowed=processes,
            cause=f"the kernel refused {usage.pids_refused} more",
        )
    if limits.cpu_s is not None and usage.cpu_s > limits.cpu_s:
        return ExceededLimit(limit="cpu", used=usage.cpu_s, allowed=limits.cpu_s)
    if memory is not None and usage.memory_bytes > memory:
        return ExceededLimit(limit="memory", used=usage.memory_bytes, allowed=memory)
    if processes is not None and usage.processes > processes:
        return ExceededLimit(limit="processes", used=usage.processes, allowed=processes)
    return None


def _oom_cause(peak_bytes: int, allowed_bytes: int) -> str:
    # Per-CPU charges (64 pages each, mm/memcontrol.c MEMCG_CHARGE_BATCH) keep the peak just below the limit.
    if peak_bytes >= 0.9 * allowed_bytes:
        return "the kernel ended a process of it"
    return "the kernel ended a process of it because the host, or a control group above, ran out of memory"
