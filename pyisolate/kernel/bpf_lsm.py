"""The BPF-LSM enforcer: the kernel decides file, network, process and memory operations by the policy's own tables."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import tempfile
import threading
from typing import Any

from ..capability import CAPABILITY_NUMBER, Capability
from ..decision import Verdict
from ..native import libbpf
from ..policy.compiled import CompiledPolicy, FsRight, FsRule
from .bpf_loader import BpfLoader, BpfUnavailable, explain
from .bpf_records import kernel_record, parse
from .bpf_state import BpfPolicy, Count, Entry, Flow, PolicySlots, SandboxEntries
from .enforcer import Availability, RecordSink, Status

_log = logging.getLogger("pyisolate.kernel.bpf")

ENFORCER = "bpf-lsm"

_DECIDES = frozenset(
    capability
    for capability in Capability
    if capability.value.partition(".")[0] in ("fs", "net", "process", "memory", "ipc", "kernel")
) | {Capability.IMPORT_NATIVE, Capability.RANDOM_READ}


class Records:
    """Turns ring buffer bytes into `KernelRecord`s, in one thread of its own; `drain` empties the buffer at once."""

    def __init__(self, loader: BpfLoader, policies: PolicySlots, entries: SandboxEntries, enforcer: str) -> None:
        self._policies, self._entries, self._enforcer = policies, entries, enforcer
        self._sink: RecordSink | None = None
        self._lock = threading.Lock()
        self._ring = libbpf.Ring(loader.map_fd("events"), self._receive)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.unattributed = 0

    def start(self, sink: RecordSink) -> None:
        """Deliver to `sink` from now on."""
        self._sink = sink
        self._thread = threading.Thread(target=self._run, name="pyisolate-bpf-records", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        import select

        poll = select.epoll()
        poll.register(self._ring.epoll_fd, select.EPOLLIN)
        with contextlib.closing(poll):
            while not self._stop.is_set():
                if poll.poll(0.2):
                    self.drain()

    def drain(self) -> int:
        """Hand on every record that is in the buffer now; return how many. What was refused before is then recorded."""
        with self._lock:
            return self._ring.consume() if self._sink is not None else 0

    def _receive(self, data: bytes) -> None:
        try:
            raw = parse(data)
            entry = self._entries.at(raw.sandbox, raw.epoch)
            if entry is None or self._sink is None:
                self.unattributed += 1
                return
            policy = self._policies.compiled(raw.deciding_policy)
            self._sink(kernel_record(raw, entry.sandbox_id, self._enforcer, policy))
        except Exception:  # the ring must go on: one bad record must not hide the next
            _log.exception("bpf records: a record could not be handed on")

    def close(self) -> None:
        """Deliver what is left and stop."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.drain()
        self._ring.close()


class BpfEnforcer:
    """What the BPF enforcers share: the loader, the maps' state, the records, the question "what would the tables say"."""

    name = "bpf"

    def __init__(self, loader: BpfLoader | None = None, *, events_per_s: int = 1000) -> None:
        self.loader = loader or BpfLoader()
        self.events_per_s = events_per_s
        self.policies: PolicySlots = None  # type: ignore[assignment] - set by start
        self.entries: SandboxEntries = None  # type: ignore[assignment]
        self.records: Records = None  # type: ignore[assignment]
        self._ask: libbpf.Program | None = None

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self, sink: RecordSink) -> None:
        """Load, attach, deliver records to `sink`. Raises BpfUnavailable."""
        try:
            self._ask = self.loader.load("ask").programs["ask"]
            self.policies = PolicySlots(self.loader)
            self.entries = SandboxEntries(self.loader)
            self._attach()
            self.records = Records(self.loader, self.policies, self.entries, self.name)
        except libbpf.BpfCallError as error:
            self.loader.close()
            raise explain(error, self.name) from error
        except BpfUnavailable:
            self.loader.close()
            raise
        self.records.start(sink)

    def _attach(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Detach everything; nothing is left in the kernel."""
        if self.records is not None:
            self.records.close()
        self.loader.close()
        if self.entries is not None:
            self.entries.close()

    # -- policies -----------------------------------------------------------------------------------------------------

    def prepare(self, policy: CompiledPolicy) -> BpfPolicy:
        """Fill the policy's tables in the kernel. Close the result when its last sandbox is attached."""
        return self.policies.prepare(policy)

    def update(self, sandbox_id: str, policy: BpfPolicy, shadow: BpfPolicy | None = None) -> None:
        """Put a sandbox under another policy: one store, no moment without a policy or between two."""
        self.entries.update(sandbox_id, policy, shadow)

    def detach(self, sandbox_id: str) -> tuple[dict[Count, int], Flow]:
        """End a sandbox: whoever is still in it may do nothing. Returns its final counters and record flow."""
        self.records.drain()
        return self.entries.close_entry(sandbox_id)

    # -- numbers ------------------------------------------------------------------------------------------------------

    def counters(self, sandbox_id: str) -> dict[Count, int]:
        """Return a sandbox's exact counters, whatever became of its records."""
        entry = self.entries.get(sandbox_id)
        return self.entries.counters_of(entry) if entry is not None else {}

    def flow(self, sandbox_id: str) -> Flow:
        """Return how many of a sandbox's records were delivered, suppressed and lost."""
        entry = self.entries.get(sandbox_id)
        return self.entries.flow(entry) if entry is not None else Flow()

    def ask(self, sandbox_id: str, capability: Capability, target: str) -> Verdict:
        """Return what the sandbox's tables say of an operation, without acting; UNAVAILABLE where they hold no answer."""
        from .bpf_ask import ask

        entry = self.entries.get(sandbox_id)
        if entry is None or self._ask is None:
            return Verdict.UNAVAILABLE
        return ask(self._ask, entry.policy.index, capability, target)

    def _entry(self, sandbox_id: str, policy: BpfPolicy, shadow: BpfPolicy | None) -> Entry:
        return self.entries.get(sandbox_id) or self.entries.open(
            sandbox_id, policy, shadow, events_per_s=self.events_per_s
        )


class BpfLsmEnforcer(BpfEnforcer):
    """BPF-LSM: full coverage, exact records. Needs the `bpf` security module and trampolines (6.1 on)."""

    name = ENFORCER

    def _attach(self) -> None:
        self.loader.attach_lsm()

    def attach_task(
        self,
        tid: int,
        sandbox_id: str,
        policy: BpfPolicy,
        shadow: BpfPolicy | None = None,
        *,
        slot: int | None = None,
    ) -> str:
        """Confine a thread, or a process by its pid, and all that it starts. Returns how it was reached."""
        return self.entries.attach_task(self._entry(sandbox_id, policy, shadow), tid, slot=slot)

    def slot_page(self, sandbox_id: str) -> tuple[int, int]:
        """Return (descriptor, page) of a sandbox's broker slots."""
        entry = self.entries.get(sandbox_id)
        if entry is None:
            raise KeyError(sandbox_id)
        return self.entries.slot_page(entry)

    def capabilities(self) -> frozenset[Capability]:
        """Return what the programs decide."""
        return _DECIDES

    def probe(self) -> Availability:
        """Load and attach, confine a process, see it refused one file and allowed another."""
        probe = BpfLsmEnforcer(BpfLoader(sandboxes=16, ring_bytes=1 << 16))
        seen: list[Any] = []
        try:
            probe.start(seen.append)
        except BpfUnavailable as error:
            return Availability(enforcer=ENFORCER, status=Status.UNAVAILABLE, reason=error.reason, remedy=error.hint or "")
        try:
            proof = _proof(probe)
            probe.records.drain()
            if proof and seen:
                return Availability(
                    enforcer=ENFORCER,
                    status=Status.AVAILABLE,
                    proof=f"{proof}; record: {seen[0].hook} {seen[0].target}",
                    detail={"missing_hooks": probe.loader.missing_hooks, "load_seconds": probe.loader.load_seconds},
                )
            return Availability(
                enforcer=ENFORCER, status=Status.UNAVAILABLE, reason="the programs are attached, but refused nothing"
            )
        finally:
            probe.close()


_PROBE = """
import sys
sys.stdin.readline()
for path in sys.argv[1:]:
    try:
        open(path).close(); print("allowed")
    except PermissionError:
        print("refused")
    sys.stdout.flush()
"""


def _proof(enforcer: BpfLsmEnforcer) -> str:
    """Return what was seen, or "" if the denied file could be opened or the allowed one not."""
    with tempfile.NamedTemporaryFile() as denied:
        rules = (
            FsRule(path="/", allow=int(FsRight.READ | FsRight.MAP_EXEC), text="probe"),
            FsRule(path=os.path.realpath(denied.name), deny=int(FsRight.READ), text="probe"),
        )
        policy = enforcer.prepare(CompiledPolicy(name="probe", version="probe", fs=rules))
        command = [sys.executable, "-I", "-S", "-c", _PROBE, os.path.realpath(denied.name), os.path.realpath(os.__file__)]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            enforcer.attach_task(child.pid, "probe", policy)
            said, _ = child.communicate("\n", timeout=60)
        finally:
            child.kill()
            child.wait()
        policy.close()
    return f"open({denied.name}) refused, open({os.__file__}) allowed" if said.split() == ["refused", "allowed"] else ""


#: Numbers of the capabilities, as the programs count them.
NUMBERS = CAPABILITY_NUMBER
