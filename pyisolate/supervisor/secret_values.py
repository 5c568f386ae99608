"""The values of secrets: read when a sandbox starts or takes another policy, for the egress proxy alone."""

from __future__ import annotations

import os

from ..errors import EnforcementError
from ..policy import Policy
from ..policy.compiled import CompiledPolicy
from ..policy.secrets import Injection, Secret, injection
from ..policy.web import by_name

#: A file of one credential is not larger.
_MOST_BYTES = 8192


def injections(policy: Policy, compiled: CompiledPolicy) -> tuple[Injection, ...]:
    """Return what the proxy is to put into requests; nothing for a policy that leads to no proxy.

    Raises EnforcementError, without the value, where a secret is not there or cannot be hidden in answers.
    """
    if not by_name(compiled):
        return ()
    return tuple(_injection(stated) for stated in policy.secrets)


def _injection(stated: Secret) -> Injection:
    try:
        return injection(stated, _value(stated.source))
    except (OSError, ValueError) as error:
        raise EnforcementError(
            f"secret {stated.name}, {stated.source}: {_cause(error)}",
            missing=f"secret {stated.name}",
            hint="set it for the process that spawns, or take it out of the policy",
        ) from None


def _cause(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):  # whose text shows the bytes
        return "is not text"
    return str(error.strerror or "cannot be read") if isinstance(error, OSError) else str(error)


def _value(source: str) -> str:
    kind, _, name = source.partition(":")
    if kind == "env":
        if (found := os.environ.get(name)) is None:
            raise ValueError("is not in the supervisor's environment")
        return found
    with open(name, "rb") as file:
        return file.read(_MOST_BYTES).decode("ascii").strip()
