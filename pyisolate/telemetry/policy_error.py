"""A denial as an exception: what, on what: why. Hint: what to do next."""

from __future__ import annotations

import errno
import json
import os
from typing import Any

from ..capability import Capability
from ..decision import UNRESOLVED, DenialCode, Verdict
from ..errors import PolicyError
from ..native import looks
from ..records import LINKING, RENAMING, Evaluation
from .event import DenialEvent


def policy_error(event: DenialEvent, hint: str | None = None) -> PolicyError:
    """Return the exception that carries an event; `hint` takes the place of the usual one."""
    error = PolicyError(
        operation=str(event.capability),
        subject=event.target,
        cause=_why(event),
        denial_event=event,
        hint=hint or hint_of(event),
    )
    error.errno = event.kernel_errno or errno.EACCES
    error.strerror = os.strerror(error.errno)
    if event.capability.family == "fs":
        error.filename = event.target
    return error


def _why(event: DenialEvent) -> str:
    if event.broker_decision is Verdict.DENY:
        return f"refused by the broker: {event.broker_reason or event.code}{event.said}"
    by = f"the kernel ({event.kernel_enforcer})" if event.kernel_enforcer else "the kernel"
    return f"refused by {by}: {event.kernel_reason or event.code}{event.said}"


def hint_of(event: DenialEvent) -> str:
    """Return what to do next about a denial, as far as its event tells."""
    if event.code is DenialCode.ALWAYS_DENIED:
        return _ALWAYS_HINTS.get(event.capability, "no policy can grant this")
    if is_denied_by_rule(event):
        return f"remove or narrow the rule {event.policy_rule}"
    if event.suggestion is not None:
        to_run = to_run_it(event)
        more = f"; to run it, instead: {_json(to_run)}" if to_run is not None else ""
        return f"to allow it, add to the policy: {_json(event.suggestion)}{more}"
    if event.syscall in RENAMING | LINKING and event.capability.family == "fs":
        return _MOVING_HINT
    by_errno = event.kernel_evaluation is Evaluation.ERRNO and event.broker_decision is Verdict.ALLOW
    if by_errno and event.capability.family == "fs":
        return "the policy grants it: look at the file's own permissions for the user that cells run as"
    if event.capability.family == "net" and event.broker_reason.endswith(UNRESOLVED):
        return "let the host resolve the name (its DNS, its /etc/hosts) and spawn again, or grant the address"
    if event.target.startswith("unix:"):
        return "a supervisor that is root grants no socket by its path, for the peer would see root: run it as a user"
    if event.capability is Capability.NET_SOCKET and event.target.startswith("AF_UNIX"):
        return _UNIX_HINT
    return _HINTS.get(event.capability, "see the event; its target cannot be written as a rule")


def is_denied_by_rule(event: DenialEvent) -> bool:
    """Tell whether a rule denies it, beside which no other can allow it: `suggest.apply` takes that rule out."""
    return event.code is DenialCode.EXPLICIT_DENY and event.policy_rule is not None


def to_run_it(event: DenialEvent) -> dict[str, Any] | None:
    """Return the rule that lets a program run which was looked for and not seen, as shells look along PATH; else None.

    What a look-up is for cannot be seen: the event's own suggestion, to read it, is the smaller one.
    """
    suggested = event.suggestion or {}
    if event.capability is not Capability.FS_LOOKUP or "fs" not in suggested:
        return None
    if not looks.is_executable(event.target):
        return None
    return {"process": [{"exec": suggested["fs"][0]["path"]}]}


def _json(piece: dict[str, Any]) -> str:
    return json.dumps(piece, ensure_ascii=False)


_UNIX_HINT = (
    "the guest's own processes have sockets in its workspace by "
    '{"process": [{"fork": true}]}, where no address is granted and nothing is asked; one of the host\'s is granted by '
    'its path, such as {"net": [{"bind": "unix:/path/to/socket"}]}, or connect instead of bind for a client; a '
    "socketpair needs no grant"
)
_MOVING_HINT = (
    "where one rule holds both names, add to it the rights that it lacks; rules for two directories let no "
    "file be moved or linked from one to the other: copy it, or work in one directory of the sandbox's own"
)
_ALWAYS_HINTS = {
    Capability.PROCESS_SIGNAL: (
        "only processes of the sandbox itself can be signalled, and not its init (process 1); no policy can grant this"
    ),
}
_UNADVISED = (
    "see the event; its target cannot be written as a rule, is a device that no sandbox has, its own "
    "permissions keep out the user that cells run as (chmod, setfacl), or a rule for the whole "
    "would open what lies beside other grants: name what is needed of it"
)
_OF_NAMES = (
    "names of others are there, too, or some that the policy denies, or its permissions keep out the user that cells "
    "run as: give the sandbox a workspace, or a directory of its own"
)
_HINTS = {
    **dict.fromkeys(
        (Capability.FS_READ, Capability.FS_WRITE, Capability.FS_LOOKUP, Capability.FS_METADATA), _UNADVISED
    ),
    Capability.FS_CREATE: _OF_NAMES,
    Capability.FS_DELETE: _OF_NAMES,
    Capability.CONTROL_CALL: "the host decides which of its functions a sandbox may call, and how often",
    Capability.CONTROL_GUARD: "the policy of that function's guard decides; the sandbox's own has no rule for it",
    Capability.NET_SOCKET: (
        "a socket is refused before its address is known, where no rule grants any: grant the address, such as "
        '{"net": [{"connect": "10.0.0.5:443"}]}, or {"net": [{"bind": "127.0.0.1:0"}]} for a server'
    ),
    Capability.NET_CONNECT: (
        "where the target is a name without a port, grant the host with the port that is needed, such as "
        '{"net": [{"connect": "example.com:443"}]}: a name that is granted can be looked up'
    ),
    Capability.PROCESS_EXEC: "name a program: a directory cannot be run, and a rule for it lets all run that is in it",
    Capability.MEMORY_EXEC: "no rule lets a mapped file be written and run: map it read-only, where `exec` is granted",
    Capability.IPC_SYSV: "no rule grants it: use threads, pipes or files of a granted directory",
    Capability.IPC_POSIX: "no rule grants it: use threads, pipes or files of a granted directory",
}
