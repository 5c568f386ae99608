"""pyisolate: run Python you do not trust under a policy that the kernel enforces, and know what was refused.

The package follows one operation from hook to counter:

    policy/      what a guest may do: model, files, presets, the one compiler
    supervisor/  spawns sandboxes, watches, reaps, collects        sandbox/: the handles that users hold
    cell/        process isolation: zygote, pool, guest loop, wire
    hooks/       the guest's side: audit hook, import hook  ->  broker: the pure decision
    kernel/      one file per enforcer, the plan that picks them, their live probes
    limits/      one resource per file, and the watchdog
    telemetry/   records -> merge -> DenialEvent -> store, metrics, audit, sinks, alerts
    native/      the only place that sees cffi
    environments/ packages for guests, built outside, in a site of their own
    cli/         pyisolate run | doctor | policy | events | top | demo

Nothing is loaded before it is used: importing pyisolate starts nothing and opens nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .distribution import VERSION, refuse_another

__version__ = VERSION

refuse_another()

if TYPE_CHECKING:  # for type checkers and editors: the names of `_HOME` (a test compares them)
    from . import metrics as metrics
    from .actor import acting_as as acting_as
    from .api import aspawn as aspawn
    from .api import list_active as list_active
    from .api import reload_policy as reload_policy
    from .api import set_alert_rules as set_alert_rules
    from .api import set_event_sinks as set_event_sinks
    from .api import spawn as spawn
    from .capability import Capability as Capability
    from .decision import DenialCode as DenialCode
    from .decision import Mode as Mode
    from .decision import Verdict as Verdict
    from .enforcement import EnforcementReport as EnforcementReport
    from .environments import Environment as Environment
    from .errors import BuildError as BuildError
    from .errors import CPUExceeded as CPUExceeded
    from .errors import DiskExceeded as DiskExceeded
    from .errors import EnforcementError as EnforcementError
    from .errors import FilesExceeded as FilesExceeded
    from .errors import FileSizeExceeded as FileSizeExceeded
    from .errors import GuestError as GuestError
    from .errors import HostFunctionError as HostFunctionError
    from .errors import LimitExceeded as LimitExceeded
    from .errors import MemoryExceeded as MemoryExceeded
    from .errors import MessagesExceeded as MessagesExceeded
    from .errors import OpenFilesExceeded as OpenFilesExceeded
    from .errors import OutputExceeded as OutputExceeded
    from .errors import PolicyAuthError as PolicyAuthError
    from .errors import PolicyError as PolicyError
    from .errors import PolicySyntaxError as PolicySyntaxError
    from .errors import ProcessesExceeded as ProcessesExceeded
    from .errors import RefusedImport as RefusedImport
    from .errors import RefusedProgram as RefusedProgram
    from .errors import SandboxClosed as SandboxClosed
    from .errors import SandboxDied as SandboxDied
    from .errors import SandboxError as SandboxError
    from .errors import TimeoutError as TimeoutError
    from .errors import WorkspaceExceeded as WorkspaceExceeded
    from .guards import guard as guard
    from .guards import sandboxed as sandboxed
    from .integrations.executor import SandboxExecutor as SandboxExecutor
    from .integrations.template import Template as Template
    from .metrics import serve_metrics as serve_metrics
    from .policy import Policy as Policy
    from .records import Actor as Actor
    from .sandbox.ask_socket import AskSocket as AskSocket
    from .sandbox.async_process import AsyncGuestProcess as AsyncGuestProcess
    from .sandbox.guest_process import GuestProcess as GuestProcess
    from .sandbox.host_function import HostFunction as HostFunction
    from .sandbox.process import Sandbox as Sandbox
    from .sandbox.question import Allow as Allow
    from .sandbox.question import Deny as Deny
    from .sandbox.question import Question as Question
    from .sandbox.result import BytesCallback as BytesCallback
    from .sandbox.result import Result as Result
    from .sandbox.rich import RichOutput as RichOutput
    from .sandbox.thread import SandboxThread as SandboxThread
    from .supervisor.control_token import set_policy_token as set_policy_token
    from .supervisor.supervisor import Supervisor as Supervisor
    from .telemetry.alerts import AlertRule as AlertRule
    from .telemetry.event import DenialEvent as DenialEvent
    from .telemetry.sinks.configure import get_event_sinks as get_event_sinks
    from .telemetry.sinks.protocol import EventSink as EventSink
    from .telemetry.sinks.webhook import WebhookSink as WebhookSink
    from .telemetry.tracing import set_tracer_provider as set_tracer_provider

#: Public name -> module that defines it ("": a module of this package itself).
_HOME = {
    "Actor": "records",
    "AlertRule": "telemetry.alerts",
    "Allow": "sandbox.question",
    "AskSocket": "sandbox.ask_socket",
    "BuildError": "errors",
    "CPUExceeded": "errors",
    "Capability": "capability",
    "DenialCode": "decision",
    "DenialEvent": "telemetry.event",
    "Deny": "sandbox.question",
    "EnforcementError": "errors",
    "EnforcementReport": "enforcement",
    "Environment": "environments",
    "EventSink": "telemetry.sinks.protocol",
    "FileSizeExceeded": "errors",
    "GuestError": "errors",
    "AsyncGuestProcess": "sandbox.async_process",
    "GuestProcess": "sandbox.guest_process",
    "HostFunction": "sandbox.host_function",
    "HostFunctionError": "errors",
    "LimitExceeded": "errors",
    "MemoryExceeded": "errors",
    "MessagesExceeded": "errors",
    "Mode": "decision",
    "OpenFilesExceeded": "errors",
    "OutputExceeded": "errors",
    "Policy": "policy",
    "PolicyAuthError": "errors",
    "PolicyError": "errors",
    "RefusedImport": "errors",
    "RefusedProgram": "errors",
    "PolicySyntaxError": "errors",
    "ProcessesExceeded": "errors",
    "BytesCallback": "sandbox.result",
    "Question": "sandbox.question",
    "Result": "sandbox.result",
    "RichOutput": "sandbox.rich",
    "Sandbox": "sandbox.process",
    "SandboxClosed": "errors",
    "SandboxDied": "errors",
    "SandboxError": "errors",
    "SandboxExecutor": "integrations.executor",
    "SandboxThread": "sandbox.thread",
    "Supervisor": "supervisor.supervisor",
    "Template": "integrations.template",
    "TimeoutError": "errors",
    "Verdict": "decision",
    "WebhookSink": "telemetry.sinks.webhook",
    "WorkspaceExceeded": "errors",
    "DiskExceeded": "errors",
    "FilesExceeded": "errors",
    "acting_as": "actor",
    "aspawn": "api",
    "get_event_sinks": "telemetry.sinks.configure",
    "guard": "guards",
    "list_active": "api",
    "metrics": "",
    "reload_policy": "api",
    "sandboxed": "guards",
    "serve_metrics": "metrics",
    "set_alert_rules": "api",
    "set_event_sinks": "api",
    "set_policy_token": "supervisor.control_token",
    "set_tracer_provider": "telemetry.tracing",
    "spawn": "api",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'pyisolate' has no attribute {name!r}")
    value = importlib.import_module(f".{home or name}", __name__)
    globals()[name] = value = getattr(value, name) if home else value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
