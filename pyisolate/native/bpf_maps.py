"""Typed views of the maps and questions of `bpf/pyisolate.h`: what other packages read and write without cffi.

Sandbox and policy numbers are indices of the maps; an epoch says which use of an entry is meant.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from . import libbpf
from .libbpf import MapFd, Mapped, Program

PAGE_BYTES = 4096
#: No number known: look for the thread's own id (PYI_SLOT_NONE).
_SLOT_NONE = 0xFFFF
#: pyi_ask_kind
_ASK_PATH, _ASK_NET, _ASK_FORK = 1, 2, 3


class SandboxArray:
    """`sandboxes`: one entry per sandbox, written through shared memory."""

    def __init__(self, fd: MapFd, entries: int) -> None:
        self._memory = Mapped(fd, "struct pyi_sandbox", entries)
        self._ffi = libbpf.interface()

    def reset(self, index: int, epoch: int, events_per_s: int) -> None:
        """Begin a new use of an entry: no records yet."""
        place = self._memory.array[index]
        place.window_ns = place.window_events = place.delivered = place.suppressed = place.lost = 0
        place.epoch, place.events_per_s = epoch, events_per_s

    def end(self, index: int) -> None:
        """End the use: no task's epoch equals 0."""
        self._memory.array[index].epoch = 0

    def point(self, index: int, policy: int, shadow: int) -> None:
        """Swap both policies in one 64-bit store; policy 0 refuses everything."""
        field = self._ffi.addressof(self._memory.array[index], "policies")
        libbpf.store64(field, policy | shadow << 32)

    def flow(self, index: int) -> tuple[int, int, int]:
        """Return how many records were delivered, suppressed and lost."""
        place = self._memory.array[index]
        return int(place.delivered), int(place.suppressed), int(place.lost)

    def close(self) -> None:
        """Unmap; the entries stay as they are."""
        self._memory.close()


class ControlPage:
    """`control`: what holds for all sandboxes of one supervisor."""

    def __init__(self, fd: MapFd) -> None:
        self._memory = Mapped(fd, "struct pyi_control", 1)
        self._ffi = libbpf.interface()

    def add_pending(self) -> None:
        """Count one more hand-over. The caller serialises calls."""
        control = self._memory.array[0]
        libbpf.store64(self._ffi.addressof(control, "pending"), control.pending + 1)

    def set_cgroup_strict(self, strict: bool) -> None:
        """Say whether tasks in an attached control group that no sandbox owns are refused."""
        libbpf.store64(self._ffi.addressof(self._memory.array[0], "cgroup_strict"), int(strict))

    @property
    def uncounted(self) -> int:
        """Denials for which the kernel could make no counter."""
        return int(self._memory.array[0].uncounted)

    def close(self) -> None:
        """Unmap."""
        self._memory.close()


class SlotPages:
    """`slots`: one page of broker slots per sandbox."""

    def __init__(self, fd: MapFd, entries: int) -> None:
        self._memory = Mapped(fd, "struct pyi_slot_page", entries)
        self._ffi = libbpf.interface()

    def clear(self, index: int) -> None:
        """Remove what the previous sandbox of this entry wrote."""
        self._ffi.buffer(self._ffi.addressof(self._memory.array[index]))[:] = bytes(PAGE_BYTES)

    def close(self) -> None:
        """Unmap."""
        self._memory.close()


def member(sandbox: int, epoch: int, slot: int | None, start_ticks: int = 0) -> bytes:
    """Return a membership (`struct pyi_task`); `start_ticks`: field 22 of /proc/TID/stat, for a hand-over by tid."""
    ffi = libbpf.interface()
    task = ffi.new("struct pyi_task *")
    task.sandbox, task.epoch, task.start_ticks = sandbox, epoch, start_ticks
    task.slot_number = _SLOT_NONE if slot is None else slot
    return bytes(ffi.buffer(task))


# -- counters ---------------------------------------------------------------------------------------------------------


class CounterPart(NamedTuple):
    """What one exact counter counts, as numbers of `bpf/pyisolate.h`."""

    capability: int
    verdict: int
    code: int
    kind: int


def read_counters(
    fd: MapFd, sandbox: int, epoch: int, policies: Iterable[int], parts: Sequence[CounterPart], *, take: bool = False
) -> dict[CounterPart, int]:
    """Return the counters of one sandbox that are not 0, summed over `policies` and processors.

    One look-up (about 0.2 us) per policy and part: the cost does not depend on other sandboxes, and nothing walks the
    table, which changes under a walk. `take` removes them. Raises BpfCallError.
    """
    ffi, lib = libbpf.interface(), libbpf.constants()
    packed = _packed(tuple(parts))
    sums = ffi.new("unsigned long long[]", len(parts))
    found: dict[CounterPart, int] = {}
    for policy in policies:
        result = lib.pyi_counters_read(
            fd, sandbox, epoch, policy, ffi.from_buffer(packed), len(parts), libbpf.possible_cpus(), take, sums
        )
        libbpf.check(result, "read counters of sandbox", sandbox)
        for part, count in zip(parts, ffi.unpack(sums, len(parts)), strict=True):
            if count:
                found[part] = found.get(part, 0) + int(count)
    return found


@functools.lru_cache(maxsize=4)
def _packed(parts: tuple[CounterPart, ...]) -> bytes:
    return b"".join(bytes(part) for part in parts)


# -- questions --------------------------------------------------------------------------------------------------------


def ask_path(program: Program, policy: int, capability: int, rights: int, key: bytes, length: int) -> int | None:
    """Return the verdict's number on `rights` at a path; None where the program gave no answer."""
    question = libbpf.interface().new("struct pyi_ask *")
    question.kind, question.rights, question.bytes = _ASK_PATH, rights, length
    return _asked(program, policy, capability, question, "path", key)


def ask_net(program: Program, policy: int, capability: int, action: int, key: bytes, port: int) -> int | None:
    """Return the verdict's number on an address and port; None where the program gave no answer."""
    question = libbpf.interface().new("struct pyi_ask *")
    question.kind, question.port, question.action = _ASK_NET, port, action
    return _asked(program, policy, capability, question, "net", key)


def ask_fork(program: Program, policy: int, capability: int) -> int | None:
    """Return the verdict's number on starting a process; None where the program gave no answer."""
    question = libbpf.interface().new("struct pyi_ask *")
    question.kind = _ASK_FORK
    return _asked(program, policy, capability, question)


@functools.cache
def _offset(field: str) -> int:
    return int(libbpf.interface().offsetof("struct pyi_ask", field))


def _asked(
    program: Program, policy: int, capability: int, question: object, field: str = "", key: bytes = b""
) -> int | None:
    ffi = libbpf.interface()
    question.policy, question.capability = policy, capability  # type: ignore[attr-defined]
    if field:
        start = _offset(field)
        ffi.buffer(question)[start : start + len(key)] = key
    return None if program.run(question) else int(question.verdict)  # type: ignore[attr-defined]


class DomainCount(NamedTuple):
    """The innermost Landlock domain of a task: its id, how many are stacked, how often it refused."""

    domain: int
    layers: int
    denials: int


def landlock_denials(program: Program, pid: int, blob_offset: int) -> DomainCount | None:
    """Return the kernel's count for a task's domain (6.15); None if the task is gone or in no domain."""
    question = libbpf.interface().new("struct pyi_landlock *")
    question.pid, question.blob_offset = pid, blob_offset
    if program.run(question) or question.result or not question.domain:
        return None
    return DomainCount(int(question.domain), int(question.layers), int(question.denials))


class DenialQuestion:
    """What `landlock_denials` asks, made once for all threads: each request's end asks it."""

    def __init__(self, program: Program, blob_offset: int) -> None:
        ffi, self._ask = libbpf.interface(), libbpf.constants().pyi_denials
        self._program, self._fd = program, program.fd
        self._question = ffi.new("struct pyi_landlock *")
        self._question.blob_offset = blob_offset

    def denials(self, pid: int) -> int | None:
        """Return the number of refusals; None if the task is gone or in no domain."""
        found: int = self._ask(self._fd, self._question, pid)
        return found if found >= 0 else None
