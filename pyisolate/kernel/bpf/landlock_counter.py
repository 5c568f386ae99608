"""How often Landlock refused something in a task's domain, pulled from the kernel: nothing is attached to any path.

First kernels: 6.14 for `bpf_task_from_vpid`, which takes numbers of this process's own pid namespace; 6.15 for the
count (with CONFIG_AUDIT). A pull takes about a microsecond.
"""

from __future__ import annotations

import os
import platform
import signal
import threading

from ...choices import EnforcerName
from ...enforcement import Availability, Status
from ...native import bpf_maps, landlock, libbpf, process
from ...native.bpf_maps import DomainCount
from ...native.landlock import AccessFs
from ...native.result import without_hint
from ..probe_child import Child, say
from .loader import BpfLoader, BpfUnavailable

ENFORCER: EnforcerName = "landlock-denials"

#: Where Landlock's part of the credentials may begin: after those of the modules before it (8-byte steps).
_OFFSETS = range(0, 256, 8)
_PROBE_DENIALS = 3
#: a pipe takes so much at once (pipe(7), PIPE_BUF)
_ANSWER_BYTES = 4096


class LandlockDenialCounter:
    """Reads `num_denials` of a task's Landlock domain. The count is the domain's: all tasks of a cell share it."""

    name = ENFORCER

    def __init__(self, loader: BpfLoader | None = None) -> None:
        self.loader = loader or BpfLoader()
        self._owned = loader is None
        self._offset = 0
        self._program: libbpf.Program | None = None
        #: returns how often a task's domain refused, as `read` does, for half its cost; None before `start`
        self.question: bpf_maps.DenialQuestion | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Load, and find Landlock's place in the credentials with a task of our own. Raises BpfUnavailable."""
        try:
            self._program = self._load()
            self._offset = self._find_offset()
            self.question = bpf_maps.DenialQuestion(self._program, self._offset)
        except BaseException:
            self.close()
            raise

    def _load(self) -> libbpf.Program:
        try:
            return self.loader.load("landlock").programs["landlock"]
        except BpfUnavailable as error:
            if error.errno is None or libbpf.has_function("bpf_task_from_vpid"):
                raise
            why = "this kernel lacks bpf_task_from_vpid (6.14)"
            raise BpfUnavailable(ENFORCER, why, hint="use a newer kernel") from error

    def close(self) -> None:
        """Unload."""
        self._program = self.question = None
        if self._owned:
            self.loader.close()

    def abandon(self) -> None:
        """In a forked child of the host: close the copies of descriptors."""
        self._program = self.question = None
        if self._owned:
            self.loader.abandon()

    def read(self, pid: int) -> DomainCount | None:
        """Return the count of a task's domain; None if the task is gone or in no domain."""
        return self._read(pid, self._offset)

    def _read(self, pid: int, offset: int) -> DomainCount | None:
        if self._program is None:
            return None
        with self._lock:
            return bpf_maps.landlock_denials(self._program, pid, offset)

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
            hint="use a newer kernel: the listener's records remain",
        )

    def probe(self) -> Availability:
        """Count the refusals of a child that is refused a known number of times."""
        probe = LandlockDenialCounter()
        try:
            probe.start()
        except (BpfUnavailable, OSError) as error:
            reason = getattr(error, "reason", None) or without_hint(error)
            return Availability(
                enforcer=ENFORCER,
                status=Status.UNAVAILABLE,
                reason=reason,
                remedy=getattr(error, "hint", "") or "",
                errno=error.errno,
            )
        offset = probe._offset
        probe.close()
        proof = f"a child refused {_PROBE_DENIALS} times was counted {_PROBE_DENIALS} times"
        return Availability(enforcer=ENFORCER, status=Status.AVAILABLE, proof=proof, detail={"blob_offset": offset})


class _refused_child:
    """A forked child in a Landlock domain of its own, refused `_PROBE_DENIALS` times, that waits to be ended."""

    def __enter__(self) -> int:
        ready, write_end = os.pipe()
        with os.fdopen(ready, "rb", buffering=0) as pipe:
            try:
                self._child = Child(lambda: _wait_refused(write_end))
            finally:
                os.close(write_end)
            try:
                if self._child.heard(pipe.read(_ANSWER_BYTES)) != b"refused":
                    raise BpfUnavailable(ENFORCER, "Landlock refused nothing here", hint="boot with lsm=landlock,...")
            except BaseException:
                self._child.end()
                raise
        return self._child.pid

    def __exit__(self, *_: object) -> None:
        self._child.end()


def _wait_refused(write_end: int) -> None:
    say(write_end, lambda: b"refused" if _be_refused() else b"allowed")
    signal.pause()


def _be_refused() -> bool:
    process.set_no_new_privs()  # root without CAP_SYS_ADMIN needs it (landlock_restrict_self(2))
    ruleset = landlock.create_ruleset(landlock.Handled(AccessFs.READ_DIR, landlock.AccessNet(0), landlock.Scope(0)))
    landlock.restrict_self(ruleset)
    refused = 0
    for _ in range(_PROBE_DENIALS):
        try:
            os.close(os.open("/", os.O_RDONLY | os.O_DIRECTORY))
        except PermissionError:
            refused += 1
    return refused == _PROBE_DENIALS
