"""The Protocol that every enforcer keeps, and the report that says what is enforced by whom.

An enforcer is one kernel mechanism (glossary). It has a `probe`, proven live; it says which capabilities it decides;
it prepares a policy once in the supervisor (`prepare`), and is bound to a sandbox at hand-out.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import msgspec

from ..capability import Capability
from ..policy.compiled import CompiledPolicy
from ..telemetry.event import KernelRecord


class Status(enum.StrEnum):
    """A probe's answer. `unknown` (could not tell) is never cached and never counts as available."""

    AVAILABLE = "available"
    UNAVAILABLE = "unavailable"
    UNKNOWN = "unknown"


class Availability(msgspec.Struct, frozen=True, kw_only=True):
    """What a live probe found: status, why, what to do about it, and what was observed as proof."""

    enforcer: str
    status: Status
    reason: str = ""
    remedy: str = ""
    proof: str = ""
    detail: dict[str, Any] = {}

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
    enforcers: tuple[str, ...] = ()
    missing: str = ""
    remedy: str = ""
    telemetry: str = ""


class EnforcementReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `sandbox.enforcement` shows: per capability who enforces it, and everything that is missing.

    Written by the supervisor alone; nothing that a guest sends can change it.
    """

    isolation: str
    enforcement: str
    kernel: str
    capabilities: tuple[CapabilityStatus, ...] = ()
    enforcers: tuple[Availability, ...] = ()
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """True when every capability the policy speaks of is enforced in full."""
        return not self.missing


RecordSink = Callable[[KernelRecord], None]


@runtime_checkable
class Enforcer(Protocol):
    """One kernel mechanism, on the supervisor's side."""

    name: str

    def probe(self) -> Availability:
        """Apply, see a denial, and say so; never infer from "the call returned 0"."""
        ...

    def capabilities(self) -> frozenset[Capability]:
        """Return what this enforcer decides when it is usable."""
        ...

    def prepare(self, policy: CompiledPolicy) -> Any:
        """Compile the policy's kernel table once; the result is shared by all of its sandboxes and closeable."""
        ...
