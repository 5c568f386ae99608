"""What a sandbox thread's report claims of its refusals, where that is less than in a cell: the matrix judges by this.

No root view hides, no wrapper is put around a function of the host's, and Landlock's counts name no call.
"""

from __future__ import annotations

from typing import Any

import pyisolate

from .operations import Operation

#: What the host's process has once for all its threads, by the name that the second filter gives it.
_OF_HOST = {"kernel.capability": "process.trace"}
#: Calls of which only wrappers tell, which cells alone have (docs/protocol.md, "Was the broker asked?").
_UNTOLD = ("listen unbound", "chroot", "unshare", "setns", "kill a thread of the init")
#: Python tries one call after the other, and each is refused: utime and open, bytecode and source.
_IN_STEPS = {"touch": {"fs.metadata", "fs.create"}, "import by": {"fs.read"}}
#: Files by functions without an audit event.
_UNHEARD = ("mkfifo", "read by a folder's descriptor", "sqlite")
#: Landlock counts each right: two of a move, or of a link.
_TWO_RIGHTS = ("rename", "hard link", "move")


def claims_of(supervisor: pyisolate.Supervisor, policy: pyisolate.Policy, **spawn: Any) -> str:
    """Return what the report says of files' refusals."""
    with supervisor.spawn("claims", policy=policy, **spawn) as sandbox:
        lines = {line.capability.value: line.telemetry for line in sandbox.enforcement.capabilities}
    return lines["fs.read"]


def as_claimed(operation: Operation, way: str, events: list[Any], claims: str) -> list[Any] | None:
    """Return the events that are left to judge as a cell's; None where they are right as they are."""
    if events and (events[0].kernel_reason or "").startswith("a sandbox thread shares"):
        # the directory is the host's: what comes after this refusal is about a name in another one
        return None if all(event.capability.value in operation.capability for event in events[1:]) else events
    if _is_counted(operation, way) and _is_count(operation, events, claims):
        return None
    steps = next((steps for begins, steps in _IN_STEPS.items() if operation.name.startswith(begins)), None)
    if steps is not None and {event.capability.value for event in events} <= steps and all(map(_is_asked, events)):
        return None
    return events


def excused(operation: Operation, events: list[Any], problems: list[str]) -> list[str]:
    """Return the problems that the claims leave."""
    if len(events) != 1:
        return problems
    broker, kernel = events[0].broker_decision.value, events[0].kernel_decision.value
    left = [one for one in problems if one != f"capability {_OF_HOST.get(operation.capability[0])}"]
    if operation.name.startswith(_UNTOLD) and (broker, kernel) == ("unavailable", "deny"):
        left = [one for one in left if one not in (f"broker {broker}, kernel {kernel}", "no origin")]
    return left


def _is_counted(operation: Operation, way: str) -> bool:
    of_files = all(one.startswith(("fs.", "import.")) for one in operation.capability)
    return of_files and (way != "python" or operation.name.startswith(_UNHEARD))


def _is_count(operation: Operation, events: list[Any], claims: str) -> bool:
    if not claims.startswith("counted exactly"):
        return not events and claims.startswith("refusals of native code show as errno only")
    if operation.name == "another's descriptor":
        return not events
    most = 2 if operation.name.startswith(_TWO_RIGHTS) else 1
    return [(one.capability.value, one.target) for one in events] == [("fs.access", "")] and events[0].count <= most


def _is_asked(event: Any) -> bool:
    return event.broker_decision.value == "deny" and event.count == 1 and bool(event.origin)
