"""Verdict, code and decision: what one layer says about one operation."""

from __future__ import annotations

import enum

import msgspec

from .capability import Capability

#: Why a name that is granted is refused all the same, in a reason's last words.
UNRESOLVED = "it did not resolve when the policy was compiled"


class Verdict(enum.StrEnum):
    """What one layer said (glossary)."""

    ALLOW = "allow"
    DENY = "deny"
    WOULD_DENY = "would_deny"
    NOT_CONSULTED = "not_consulted"
    NOT_REACHED = "not_reached"
    UNAVAILABLE = "unavailable"


class DenialCode(enum.StrEnum):
    """Why an operation was refused. A closed set: dashboards and alert rules match on it."""

    NOT_GRANTED = "NOT_GRANTED"
    SCOPE_INSUFFICIENT = "SCOPE_INSUFFICIENT"
    EXPLICIT_DENY = "EXPLICIT_DENY"
    ALWAYS_DENIED = "ALWAYS_DENIED"
    TOKEN_INVALID = "TOKEN_INVALID"
    LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
    ACTOR_REQUIRED = "ACTOR_REQUIRED"
    INTERNAL = "INTERNAL"


class Mode(enum.StrEnum):
    """Whether a policy (or rule group) refuses, or only records what it would refuse."""

    ENFORCE = "enforce"
    MONITOR = "monitor"


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One layer's answer for one operation.

    `rule` is the text of the rule that decided (as `Policy` prints it) or None when nothing matched.
    `presented` is the nearest grant of the same capability, or None when the policy holds none.
    """

    verdict: Verdict
    capability: Capability
    target: str
    code: DenialCode | None = None
    reason: str = ""
    rule: str | None = None
    presented: str | None = None

    @property
    def refused(self) -> bool:
        """True when the operation must not go through."""
        return self.verdict is Verdict.DENY
