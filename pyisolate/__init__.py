"""pyisolate: run Python you do not trust under a policy that the kernel enforces, and know what was refused.

The package follows one operation from hook to counter:

    policy/      what a guest may do: model, files, presets, the one compiler
    supervisor   spawns sandboxes, watches, reaps, collects        sandbox, thread: the handles
    cell/        process isolation: zygote, pool, guest loop, wire
    hooks/       the guest's side: audit hook, import hook  ->  broker: the pure decision
    kernel/      one file per enforcer, the plan that picks them, their live probes
    limits/      one resource per file, and the watchdog
    telemetry/   records -> merge -> DenialEvent -> store, metrics, audit, sinks, alerts
    native/      the only place that sees cffi
    cli/         pyisolate run | doctor | policy | events | top | demo

Nothing is loaded before it is used: importing pyisolate starts nothing and opens nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .api import aspawn, list_active, reload_policy, serve_metrics, spawn
    from .capability import Capability
    from .control import set_policy_token
    from .decision import DenialCode, Mode, Verdict
    from .errors import (
        CPUExceeded,
        EnforcementError,
        FileSizeExceeded,
        GuestError,
        LimitExceeded,
        MemoryExceeded,
        MessagesExceeded,
        OpenFilesExceeded,
        OutputExceeded,
        PolicyAuthError,
        PolicyError,
        PolicySyntaxError,
        ProcessesExceeded,
        SandboxClosed,
        SandboxDied,
        SandboxError,
        TimeoutError,
    )
    from .guarding import acting_as, guard, sandboxed
    from .kernel.enforcer import EnforcementReport
    from .policy import Policy
    from .result import Result
    from .sandbox import Sandbox
    from .supervisor import Supervisor
    from .telemetry import metrics
    from .telemetry.alerts import AlertRule
    from .telemetry.event import Actor, DenialEvent
    from .telemetry.sink import EventSink, get_event_sinks, set_event_sinks
    from .telemetry.webhook import WebhookSink
    from .thread import SandboxThread

#: Public name -> module that defines it. `metrics` is a module itself.
_HOME = {
    "Actor": "telemetry.event",
    "AlertRule": "telemetry.alerts",
    "CPUExceeded": "errors",
    "Capability": "capability",
    "DenialCode": "decision",
    "DenialEvent": "telemetry.event",
    "EnforcementError": "errors",
    "EnforcementReport": "kernel.enforcer",
    "EventSink": "telemetry.sink",
    "FileSizeExceeded": "errors",
    "GuestError": "errors",
    "LimitExceeded": "errors",
    "MemoryExceeded": "errors",
    "MessagesExceeded": "errors",
    "Mode": "decision",
    "OpenFilesExceeded": "errors",
    "OutputExceeded": "errors",
    "Policy": "policy",
    "PolicyAuthError": "errors",
    "PolicyError": "errors",
    "PolicySyntaxError": "errors",
    "ProcessesExceeded": "errors",
    "Result": "result",
    "Sandbox": "sandbox",
    "SandboxClosed": "errors",
    "SandboxDied": "errors",
    "SandboxError": "errors",
    "SandboxThread": "thread",
    "Supervisor": "supervisor",
    "TimeoutError": "errors",
    "Verdict": "decision",
    "WebhookSink": "telemetry.webhook",
    "acting_as": "guarding",
    "aspawn": "api",
    "get_event_sinks": "telemetry.sink",
    "guard": "guarding",
    "list_active": "api",
    "metrics": "telemetry",
    "reload_policy": "api",
    "sandboxed": "guarding",
    "serve_metrics": "api",
    "set_event_sinks": "telemetry.sink",
    "set_policy_token": "control",
    "spawn": "api",
}

__all__ = [
    "Actor",
    "AlertRule",
    "CPUExceeded",
    "Capability",
    "DenialCode",
    "DenialEvent",
    "EnforcementError",
    "EnforcementReport",
    "EventSink",
    "FileSizeExceeded",
    "GuestError",
    "LimitExceeded",
    "MemoryExceeded",
    "MessagesExceeded",
    "Mode",
    "OpenFilesExceeded",
    "OutputExceeded",
    "Policy",
    "PolicyAuthError",
    "PolicyError",
    "PolicySyntaxError",
    "ProcessesExceeded",
    "Result",
    "Sandbox",
    "SandboxClosed",
    "SandboxDied",
    "SandboxError",
    "SandboxThread",
    "Supervisor",
    "TimeoutError",
    "Verdict",
    "WebhookSink",
    "acting_as",
    "aspawn",
    "get_event_sinks",
    "guard",
    "list_active",
    "metrics",
    "reload_policy",
    "sandboxed",
    "serve_metrics",
    "set_event_sinks",
    "set_policy_token",
    "spawn",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'pyisolate' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{home}", __name__), name, None)
    if value is None:  # a module of the package, such as metrics
        value = importlib.import_module(f".{home}.{name}", __name__)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
