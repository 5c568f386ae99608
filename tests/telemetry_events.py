"""Records and events for the telemetry's tests."""

from __future__ import annotations

from typing import Any

from pyisolate.capability import Capability
from pyisolate.decision import Verdict
from pyisolate.records import BrokerRecord, KernelRecord, SandboxContext
from pyisolate.telemetry.event import DenialEvent
from pyisolate.telemetry.merge import merge

CONTEXT = SandboxContext(
    sandbox="report", sandbox_id="s-1", policy="p", policy_version="abc", policy_generation=1, isolation="process"
)


def broker(**changes: Any) -> BrokerRecord:
    fields: dict[str, Any] = {
        "sequence": 1,
        "capability": Capability.FS_READ,
        "target": "/etc/shadow",
        "verdict": Verdict.DENY,
        "reason": "no rule grants it",
        "origin": "job.py:3 in main",
        "tid": 7,
    }
    return BrokerRecord(**{**fields, **changes})


def kernel(**changes: Any) -> KernelRecord:
    fields: dict[str, Any] = {
        "sandbox_id": "s-1",
        "enforcer": "bpf-lsm",
        "hook": "file_open",
        "capability": Capability.FS_READ,
        "target": "/etc/shadow",
        "verdict": Verdict.DENY,
        "errno": 13,
        "tid": 7,
    }
    return KernelRecord(**{**fields, **changes})


def event(context: SandboxContext = CONTEXT, **changes: Any) -> DenialEvent:
    return merge(context, broker(**changes), None)
