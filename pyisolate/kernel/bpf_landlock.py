"""How often Landlock refused something in a task's domain, pulled from the kernel: nothing is attached to any path.

First kernels: 6.2 for `bpf_task_from_pid`, 6.15 for the count (with CONFIG_AUDIT). A pull takes about a microsecond.
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import threading
from collections.abc import Callable

import msgspec

from ..native import landlock, libbpf
from ..native.landlock import AccessFs
from .bpf_loader import BpfLoader, BpfUnavailable
from .enforcer import Availability, Status

ENFORCER = "landlock-denials"

#: Where Landlock's part of the credentials may begin: after those of the modules before it (8-byte steps).
_OFFSETS = range(0, 256, 8)
_PROBE_DENIALS = 3


class LandlockDenials(msgspec.Struct, frozen=True):
    """What the kernel counts for the innermost Landlock domain of a task."""

    domain: int
    layers: int
    denials: int


class LandlockDenialCounter:
    """Reads `num_denials` of a task's Landlock domain. The count is the domain's: all tasks of a cell share it."""

    name = ENFORCER

    def __init__(self, loader: BpfLoader | None = None) -> None:
        self.loader = loader or BpfLoader()
        self._owned = loader is None
        self._offset = 0
        self._program: libbpf.Program | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Load, and find Landlock's place in the credentials with a task of our own. Raises BpfUnavailable."""
        if not libbpf.available()[0] or not libbpf.has_function("bpf_task_from_pid"):
            raise BpfUnavailable(ENFORCER, "this kernel lacks bpf_task_from_pid (6.2)", hint="use a newer kernel")
        try:
            self._program = self.loader.load("landlock").programs["landlock"]
            self._offset = self._find_offset()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Unload."""
        self._program = None
        if self._owned:
            self.loader.close()

    def read(self, pid: int) -> LandlockDenials | None:
        """Return the count of a task's domain; None if the task is gone or in no domain."""
        return self._read(pid, self._offset)

    def _read(self, pid: int, offset: int) -> LandlockDenials | None:
        if self._program is None:
            return None
        question = libbpf.interface().new("struct pyi_landlock *")
        question.pid, question.blob_offset = pid, offset
        with self._lock:
            result = self._program.run(question)
        if result or question.result or not question.domain:
            return None
        return LandlockDenials(int(question.domain), int(question.layers), int(question.denials))

    def _find_offset(self) -> int:
        """Confine a child that is refused a known number of times: only the right place tells that number."""
        with _refused_child() as child:
            for offset in _OFFSETS:
                found = self._read(child, offset)
                if found is not None and found.layers == 1 and found.denials == _PROBE_DENIALS:
                    return offset
        raise BpfUnavailable(
            ENFORCER,
            f"Linux {platform.release()} does not tell how often Landlock refused (6.15, CONFIG_AUDIT)",
            hint="use the sys_exit observer, or a newer kernel",
        )

    def probe(self) -> Availability:
        """Count the refusals of a child that is refused a known number of times."""
        probe = LandlockDenialCounter()
        try:
            probe.start()
        except (BpfUnavailable, OSError) as error:
            reason = getattr(error, "reason", str(error))
            return Availability(
                enforcer=ENFORCER, status=Status.UNAVAILABLE, reason=reason, remedy=getattr(error, "hint", "") or ""
            )
        offset = probe._offset
        probe.close()
        proof = f"a child refused {_PROBE_DENIALS} times was counted {_PROBE_DENIALS} times"
        return Availability(enforcer=ENFORCER, status=Status.AVAILABLE, proof=proof, detail={"blob_offset": offset})


class _refused_child:
    """A forked child in a Landlock domain of its own, refused `_PROBE_DENIALS` times, that waits to be ended."""

    def __enter__(self) -> int:
        ready, told = os.pipe()
        try:
            self._pid = os.fork()
        except OSError:
            os.close(ready)
            os.close(told)
            raise
        if self._pid == 0:
            _run_child(told, _be_refused)
        os.close(told)
        with os.fdopen(ready, "rb") as pipe:
            if pipe.read(1) != b"1":
                self.__exit__()
                raise BpfUnavailable(ENFORCER, "Landlock is not available here", hint="boot with lsm=landlock,...")
        return self._pid

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


def _run_child(told: int, body: Callable[[], bool]) -> None:
    with contextlib.suppress(BaseException):
        os.write(told, b"1" if body() else b"0")
        signal.pause()
    os._exit(0)


def _be_refused() -> bool:
    ruleset = landlock.create_ruleset(landlock.Handled(AccessFs.READ_DIR, landlock.AccessNet(0), landlock.Scope(0)))
    landlock.restrict_self(ruleset)
    refused = 0
    for _ in range(_PROBE_DENIALS):
        try:
            os.close(os.open("/", os.O_RDONLY | os.O_DIRECTORY))
        except PermissionError:
            refused += 1
    return refused == _PROBE_DENIALS
