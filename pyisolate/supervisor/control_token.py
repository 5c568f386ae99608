"""The token that guards control operations: policy reload, kill, and the administration of metrics.

Only a keyed hash of it is kept, under a key that dies with the process: nothing that is printed, logged, pickled or
recorded can hold it. Cells never see either: they descend from a process that was started fresh.
"""

from __future__ import annotations

import os
import threading

from ..capability import Capability
from ..decision import Decision, DenialCode, Verdict
from ..errors import PolicyAuthError
from ..records import SandboxContext
from ..telemetry.host_events import host_context, record_refusal
from ..telemetry.recorder import Recorder

#: Shorter tokens can be guessed.
MINIMUM_LENGTH = 16

_OPERATIONS = {
    "reload": Capability.CONTROL_RELOAD,
    "kill": Capability.CONTROL_KILL,
    "metrics": Capability.CONTROL_METRICS,
}
_KEY = os.urandom(32)
_lock = threading.Lock()
_digest: bytes | None = None


def set_policy_token(token: str | None, *, current: str | None = None) -> None:
    """Guard control operations with `token` from now on; None takes the guard away.

    Once a token is set, `current` must be it: else PolicyAuthError. Raises ValueError for one that is too short.
    """
    global _digest
    if token is not None and (not isinstance(token, str) or len(token) < MINIMUM_LENGTH):
        raise ValueError(
            f"set_policy_token: it must be text of at least {MINIMUM_LENGTH} characters. Hint: secrets.token_urlsafe()"
        )
    check_token(current, "reload", target="the policy token")
    with _lock:
        _digest = None if token is None else _hash(token)


def token_required() -> bool:
    """Tell whether control operations need a token."""
    return _digest is not None


def check_token(
    token: str | None,
    operation: str,
    *,
    target: str = "",
    context: SandboxContext | None = None,
    recorder: Recorder | None = None,
) -> None:
    """Return if `token` is the one that was set (or none was); else record the refusal and raise PolicyAuthError.

    `operation` is reload, kill or metrics; `target` says on what. Takes the same time for every wrong token.
    """
    capability = _OPERATIONS[operation]
    wanted = _digest
    if wanted is None:
        return
    import hmac

    given = token if isinstance(token, str) else ""
    if hmac.compare_digest(_hash(given), wanted) and token is not None:
        return
    why = "no token was given" if token is None else "the token is wrong"
    decision = Decision(
        verdict=Verdict.DENY, capability=capability, target=target, code=DenialCode.TOKEN_INVALID, reason=why
    )
    event = record_refusal(decision, context or host_context(), recorder=recorder)
    subject = event.target or (event.sandbox if context is not None else "this process")
    raise PolicyAuthError(
        f"{operation}, on {subject}: {why}",
        denial_event=event,
        hint="pass token=..., the one that set_policy_token was given",
    )


def _hash(token: str) -> bytes:
    import hmac  # loads OpenSSL, and few programs set a token

    return hmac.digest(_KEY, token.encode("utf-8", "surrogatepass"), "sha256")
