"""A denial as an exception: what, on what: why. Hint: what to do next."""

from __future__ import annotations

import json

from ..capability import Capability
from ..decision import DenialCode, Verdict
from ..errors import PolicyError
from .event import DenialEvent, Evaluation


def policy_error(event: DenialEvent) -> PolicyError:
    """Return the exception that carries an event."""
    return PolicyError(f"{event.capability}, on {event.target}: {_why(event)}", denial_event=event, hint=_hint(event))


def _why(event: DenialEvent) -> str:
    if event.broker_decision is Verdict.DENY:
        return f"refused by the broker: {event.broker_reason or event.code}"
    by = f"the kernel ({event.kernel_enforcer})" if event.kernel_enforcer else "the kernel"
    return f"refused by {by}: {event.kernel_reason or event.code}"


def _hint(event: DenialEvent) -> str:
    if event.code is DenialCode.ALWAYS_DENIED:
        return "no policy can grant this"
    if event.suggestion is not None:
        return f"to allow it, add to the policy: {json.dumps(event.suggestion, ensure_ascii=False)}"
    if event.kernel_evaluation is Evaluation.ERRNO and event.broker_decision is Verdict.ALLOW:
        return "the policy grants it: look at the file's own permissions for the user that cells run as"
    return _HINTS.get(event.capability, "see the event; its target cannot be written as a rule")


_HINTS = {
    Capability.NET_SOCKET: (
        "a socket is refused before its address is known, where no rule grants any: grant the address, such as "
        '{"net": [{"connect": "10.0.0.5:443"}]}, or {"net": [{"bind": "127.0.0.1:0"}]} for a server'
    ),
    Capability.PROCESS_SIGNAL: "only processes of the sandbox itself can be signalled; no rule widens that",
    Capability.IPC_SYSV: "no rule grants it: use threads, pipes or files of a granted directory",
    Capability.IPC_POSIX: "no rule grants it: use threads, pipes or files of a granted directory",
}
