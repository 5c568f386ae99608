"""What is in force in a sandbox, capability by capability, and what was proven of each enforcer."""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from .capability import Capability
from .choices import Enforcement, EnforcerName, Isolation


class Status(enum.StrEnum):
    """A probe's answer. `unknown` (could not tell) is never cached and never counts as available."""

    AVAILABLE = "available"
    UNAVAILABLE = "unavailable"
    UNKNOWN = "unknown"


class Availability(msgspec.Struct, frozen=True, kw_only=True):
    """What a live probe found: status, why, what to do about it, and what was observed as proof."""

    enforcer: EnforcerName
    status: Status
    reason: str = ""
    remedy: str = ""
    proof: str = ""
    detail: dict[str, Any] = {}
    #: of the call that failed, where one did: a shortage (EMFILE, ENOMEM ...) proves nothing
    errno: int | None = None

    @property
    def usable(self) -> bool:
        """True only when the probe saw the mechanism deny."""
        return self.status is Status.AVAILABLE


class Coverage(enum.StrEnum):
    """How far a capability is enforced in one sandbox."""

    FULL = "full"
    PARTIAL = "partial"
    NONE = "none"


class CapabilityStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Who enforces one capability, how far, and what of its refusals can be seen."""

    capability: Capability
    coverage: Coverage
    enforcers: tuple[EnforcerName, ...] = ()
    missing: str = ""
    remedy: str = ""
    telemetry: str = ""


class EnforcementReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `sandbox.enforcement` shows: per capability who enforces it, and everything that is missing.

    Written by the supervisor alone; nothing that a guest sends can change it.
    """

    isolation: Isolation
    enforcement: Enforcement
    kernel: str
    capabilities: tuple[CapabilityStatus, ...] = ()
    enforcers: tuple[Availability, ...] = ()
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """True when every capability the policy speaks of is enforced in full."""
        return not self.missing
