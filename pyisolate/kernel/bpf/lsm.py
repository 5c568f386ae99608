"""The BPF-LSM enforcer: the kernel decides file, network, process and memory operations by the policy's own tables."""

from __future__ import annotations

import os
import subprocess
import sys

from ...capability import Capability
from ...choices import EnforcerName
from ...enforcement import Availability, Status
from ...policy.compiled import CompiledPolicy, FsRight, FsRule
from ..probe_child import ending
from .loader import BpfUnavailable, check_lsm
from .maps import BpfPolicy
from .runtime import PROBE, PROBE_SETTINGS, BpfEnforcer

ENFORCER: EnforcerName = "bpf-lsm"

_DECIDES = frozenset(
    capability
    for capability in Capability
    if capability.value.partition(".")[0] in ("fs", "net", "process", "memory", "ipc", "kernel")
) | {Capability.IMPORT_NATIVE, Capability.RANDOM_READ}


class BpfLsmEnforcer(BpfEnforcer):
    """BPF-LSM: full coverage, exact records. Needs the `bpf` security module and trampolines (6.1 on)."""

    name = ENFORCER

    def _check(self) -> None:
        check_lsm()

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
        entry = self.shared.entry(sandbox_id, policy, shadow)
        return self.shared.entries.attach_task(entry, tid, slot=slot)

    def capabilities(self) -> frozenset[Capability]:
        """Return what the programs decide."""
        return _DECIDES

    def probe(self) -> Availability:
        """Load and attach, confine a process, see it refused one file and allowed another."""
        probe = BpfLsmEnforcer(settings=PROBE_SETTINGS)
        try:
            probe.start(lambda record: None)
        except BpfUnavailable as error:
            return _unavailable(error)
        try:
            proof = _proof(probe)
            probe.shared.records.drain()
            seen = probe.shared.records.proofs
            if proof and seen:
                return Availability(
                    enforcer=ENFORCER,
                    status=Status.AVAILABLE,
                    proof=f"{proof}; record: {seen[0].hook} {seen[0].target}",
                    detail={"missing_hooks": probe.loader.missing_hooks, "load_seconds": probe.loader.load_seconds},
                )
            refused = "a file, and no record of it arrived" if proof else "nothing"
            return Availability(
                enforcer=ENFORCER,
                status=Status.UNAVAILABLE,
                reason=f"the programs are attached, but refused {refused}",
            )
        except BpfUnavailable as error:
            return _unavailable(error)
        finally:
            probe.close()


def _unavailable(error: BpfUnavailable) -> Availability:
    return Availability(
        enforcer=ENFORCER,
        status=Status.UNAVAILABLE,
        reason=error.reason,
        remedy=error.hint or "",
        errno=error.errno,
    )


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
    """Return what was seen, or "" if the denied file could be opened or the allowed one not.

    Raises BpfUnavailable where the program that was to try did not.
    """
    import tempfile  # most kernels get no further than the first program

    with tempfile.NamedTemporaryFile() as denied:
        rules = (
            FsRule(path="/", allow=int(FsRight.READ | FsRight.MAP_EXEC), text="probe"),
            FsRule(path=os.path.realpath(denied.name), deny=int(FsRight.READ), text="probe"),
        )
        policy = enforcer.prepare(CompiledPolicy(name="probe", version="probe", fs=rules))
        command = [
            sys.executable,
            "-I",
            "-S",
            "-c",
            _PROBE,
            os.path.realpath(denied.name),
            os.path.realpath(os.__file__),
        ]
        pipe = subprocess.PIPE
        child = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True)  # from Ctrl-C
        try:
            enforcer.attach_task(child.pid, PROBE, policy)
            said, _ = child.communicate("\n", timeout=60)
        finally:
            child.kill()
            child.wait()
        policy.close()
    if child.returncode:
        text, number = ending(child.returncode)
        reason = f"the program that was to open files did not: {text}"
        raise BpfUnavailable(ENFORCER, reason, hint="its stderr is this process's", errno=number)
    return f"open({denied.name}) refused, open({os.__file__}) allowed" if said.split() == ["refused", "allowed"] else ""
