"""What the listener saw on its way to the file enforcer (`telemetry="full"`), and what that enforcer says to it.

The record of a watched call tells that a file was asked for, not what became of it. The tables that the root view and
the Landlock ruleset were made of say so: they are asked without acting. This is telemetry: it decides nothing, and a
guest that changes a name or a symlink meanwhile is told of by the name that it had.
"""

from __future__ import annotations

import os
from collections import OrderedDict

import msgspec

from ..broker import Broker
from ..capability import Capability
from ..decision import Verdict
from ..policy.compiled import CompiledPolicy
from ..telemetry.event import Evaluation, KernelRecord

#: Policies in use at once; a broker is cheap to make again.
_BROKERS = 64


#: Calls that are about a name itself; the others follow it to what it leads to.
_NAMING = frozenset(
    ("mkdir", "mkdirat", "mknod", "mknodat", "link", "linkat", "symlink", "symlinkat", "rename", "renameat",
     "renameat2", "unlink", "unlinkat", "rmdir")
)  # fmt: skip


class WatchedFiles:
    """Turns records of watched file calls into refusals, where the policy's tables refuse."""

    def __init__(self) -> None:
        self._brokers: OrderedDict[tuple[str, int], Broker] = OrderedDict()

    def judge(self, record: KernelRecord, policy: CompiledPolicy, *, absent_only: bool = False) -> KernelRecord:
        """Return the record, as a denial if the file enforcer refuses the call.

        `absent_only`: an observer tells of every EACCES; left to say is what the root view refuses by absence (ENOENT).
        In monitor mode nothing refuses: the record then says what enforcing would have done. Left as it is: what is
        granted; a file that is not there at all; a relative name, whose directory is not known here.
        """
        if record.verdict is not Verdict.ALLOW or not record.capability.value.startswith("fs."):
            return record
        if not record.target.startswith("/"):
            return record
        capability, path = _what_is_meant(record)
        if path is None:
            return record
        decision = self._broker(policy).decide(capability, path, listing=os.path.isdir(path))
        monitored = decision.verdict is Verdict.WOULD_DENY
        if not (decision.refused or monitored) or (absent_only and not monitored and self._shown(policy, path)):
            return record
        return msgspec.structs.replace(
            record,
            enforcer="landlock",
            capability=capability,
            target=path,  # as rules and hooks name it, so that both records of one operation are told as one
            verdict=decision.verdict,
            evaluation=Evaluation.PROBED,
            code=decision.code,
            reason=decision.reason,
            rule=decision.rule,
            presented=decision.presented,
        )

    def _shown(self, policy: CompiledPolicy, path: str) -> bool:
        """True where the root view has the path: some right is granted on it, or below it."""
        if not self._broker(policy).decide(Capability.FS_METADATA, path, look=True).refused:
            return True
        below = path.rstrip("/") + "/"
        return any(rule.allow and rule.path.startswith(below) for rule in policy.fs)

    def _broker(self, policy: CompiledPolicy) -> Broker:
        key = (policy.version, policy.generation)
        found = self._brokers.get(key)
        if found is None:
            found = self._brokers[key] = Broker(policy)
            while len(self._brokers) > _BROKERS:
                self._brokers.popitem(last=False)
        return found


def _what_is_meant(record: KernelRecord) -> tuple[Capability, str | None]:
    """Return the capability and the path that rules speak of (/lib is a symlink: the rule says /usr/lib).

    No path where nothing is there, which is no refusal.
    """
    capability = record.capability
    if record.syscall in _NAMING:
        parent, _, name = record.target.rstrip("/").rpartition("/")
        path = os.path.join(os.path.realpath(parent or "/"), name)
        return capability, path if os.path.lexists(os.path.dirname(path)) else None
    path = os.path.realpath(record.target)
    there = os.path.lexists(path)
    if capability is Capability.FS_CREATE:
        return (Capability.FS_WRITE if there else capability), path
    return capability, path if there else None


def let_through(record: KernelRecord) -> KernelRecord | None:
    """Return the record of a program or socket that monitor mode let through, named as the broker names it.

    None where nothing is there: a search in PATH tries each directory, and the C library asks for daemons that do not
    run. What is not there is refused by nobody.
    """
    if record.capability is Capability.PROCESS_EXEC and record.target.startswith("/"):
        path = os.path.realpath(record.target)
        return msgspec.structs.replace(record, target=path) if os.path.lexists(path) else None
    if record.capability is Capability.IPC_UNIX and record.target.startswith("unix:/"):
        return record if os.path.lexists(record.target[5:]) else None
    return record
